"""What only a GPU shows: batches that are copied beside the computation, and losses by CUDA graphs."""

import copy
import random
from typing import Any

import pytest
import timm
import torch
from torch.utils.data import DataLoader

import alignmix_timm
from alignmix_timm.alignment import Assignment
from alignmix_timm.mixers import AlignMixup, CutMix, InputMixup, ManifoldMixup, Mixer
from alignmix_timm.paper.graphs import Losses
from alignmix_timm.params import Place
from alignmix_timm.training.data.device import DeviceBatches
from alignmix_timm.training.data.erasing import Erasing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
STATISTICS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def loader(batches: int = 7, pinned: bool = True) -> DataLoader:
    """Batches of two large images of bytes; the last of one."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * batches - 1, 3, 512, 512), dtype=torch.uint8, generator=generator)
    rows: Any = [{"pixel_values": image, "labels": row} for row, image in enumerate(pixels)]
    return DataLoader(rows, 2, pin_memory=pinned)


@pytest.mark.parametrize("pinned", [True, False])
def test_batches_copied_ahead_are_those_of_the_cpu(pinned: bool) -> None:
    expected = list(DeviceBatches(loader(), torch.device("cpu"), STATISTICS, torch.channels_last))
    found = DeviceBatches(loader(pinned=pinned), torch.device("cuda"), STATISTICS, torch.channels_last)
    count = 0
    for batch, other in zip(found, expected, strict=True):
        busy = torch.randn(2048, 2048, device="cuda")
        for _ in range(20):  # the device is still busy with this batch when the next is copied
            busy = busy @ busy / 2048
        images = batch["pixel_values"] + 0 * busy.sum().nan_to_num(0, 0, 0)
        assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(images.cpu(), other["pixel_values"], rtol=0, atol=2e-6)
        assert batch["labels"].tolist() == other["labels"].tolist()
        count += 1
    assert count == 7


def test_batches_kept_by_the_reader_stay_as_they_are() -> None:
    found = list(DeviceBatches(loader(), torch.device("cuda"), STATISTICS, torch.contiguous_format))
    expected = DeviceBatches(loader(), torch.device("cpu"), STATISTICS, torch.contiguous_format)
    for batch, other in zip(found, expected, strict=True):
        torch.testing.assert_close(batch["pixel_values"].cpu(), other["pixel_values"], rtol=0, atol=2e-6)


def test_an_epoch_left_early_and_an_empty_one() -> None:
    batches = DeviceBatches(loader(), torch.device("cuda"), STATISTICS, torch.contiguous_format)
    first = next(iter(batches))
    assert torch.equal(next(iter(batches))["pixel_values"], first["pixel_values"])
    rows: Any = []
    assert list(DeviceBatches(DataLoader(rows, 2), torch.device("cuda"), STATISTICS, torch.contiguous_format)) == []


def test_rectangles_are_erased_where_they_were_drawn() -> None:
    random.seed(0)
    rectangles = [Erasing(1.0).draw(512, 512) for _ in range(4)]
    rows: Any = [
        {"pixel_values": torch.full((3, 512, 512), 7, dtype=torch.uint8), "labels": 0, "erased": torch.tensor(one)}
        for one in rectangles
    ]
    found = list(DeviceBatches(DataLoader(rows, 2), torch.device("cuda"), STATISTICS, torch.contiguous_format))
    again = list(DeviceBatches(DataLoader(rows, 4), torch.device("cuda"), STATISTICS, torch.contiguous_format))
    images = torch.cat([batch["pixel_values"] for batch in found])
    assert torch.equal(images, again[0]["pixel_values"])  # whatever the batches
    mean, std = (torch.tensor(STATISTICS[name], device="cuda").view(3, 1, 1) for name in ("mean", "std"))
    background = (7 / 255 - mean) / std
    for image, (top, left, tall, wide, _) in zip(images, rectangles, strict=True):
        erased = torch.zeros(512, 512, dtype=torch.bool, device="cuda")
        erased[top : top + tall, left : left + wide] = True
        assert torch.equal(((image - background).abs() > 1e-5).any(0), erased)
        assert abs(image[:, erased].std() - 1) < 0.1


MIXERS = {
    "alignmix": AlignMixup(),
    "clean batches too": AlignMixup(modes=("none", "feat")),
    "unaligned": AlignMixup(modes=("feat",), aligned=False),
    "input": InputMixup(),
    "cutmix": CutMix(),
    "manifold": ManifoldMixup(),
}


@pytest.mark.parametrize("assignment", ["transport", "none", "shuffled", "uniform"])
@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
def test_training_by_graphs_is_training(mixer: Mixer, assignment: Assignment) -> None:
    if assignment != "transport" and not isinstance(mixer, AlignMixup):
        pytest.skip("aligns nothing")
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=5)
    images, labels = torch.randn(8, 3, 64, 64, device="cuda"), torch.arange(8, device="cuda") % 5
    found = []
    for graphs in (False, True):
        model = alignmix_timm.AlignMixModel(
            copy.deepcopy(net), mixer=mixer, input_size=(3, 64, 64), assignment=assignment
        ).cuda()
        losses, values = Losses(model.train()), []
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
        for step in range(12):
            params = mixer.draw(8, Place(1, step))
            loss = losses(images, labels, params) if graphs else model(images, labels, params).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        found.append((values, dict(model.state_dict())))
    assert found[1][0] == pytest.approx(found[0][0], rel=2e-3)
    for name, value in found[0][1].items():  # running averages too
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-2, atol=1e-3)
