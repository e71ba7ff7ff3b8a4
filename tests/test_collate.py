import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch.utils.data import Dataset

from alignmix_timm import AlignMixCollator, AlignMixModel, MixDraw, MixParams, draw
from alignmix_timm.mixers import CutMix
from alignmix_timm.targets import dense_targets


class Rows(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"image": torch.full((3, 4, 4), float(index)), "label": index % 5}


def same(one: MixParams | MixDraw, other: MixParams) -> bool:
    return one.mode == other.mode and torch.equal(one.lam, other.lam) and torch.equal(one.perm, other.perm)


def test_batch_is_unmixed_and_carries_its_parameters() -> None:
    batch = AlignMixCollator(seed=3, num_classes=5)([Rows(9)[index] for index in range(4)])
    assert list(batch) == ["pixel_values", "labels", "mix"]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert batch["labels"].tolist() == [0, 1, 2, 3]
    assert same(batch["mix"], draw(4, 3, 0))


def test_processes_share_modes_and_differ_in_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is the one that reads, wherever the collator was made."""
    rows, collator = [Rows(9)[index] for index in range(8)], AlignMixCollator(seed=2, modes=("input", "embed"))
    other = copy.deepcopy(collator)
    for step in range(10):
        monkeypatch.setenv("RANK", "0")
        assert same(collator(rows)["mix"], draw(8, 2, step, 0, modes=("input", "embed")))
        monkeypatch.setenv("RANK", "1")
        assert same(other(rows)["mix"], draw(8, 2, step, 1, modes=("input", "embed")))


def test_accepts_tuples_other_columns_and_no_labels() -> None:
    image = torch.zeros(3, 2, 2)
    assert AlignMixCollator()([(image, 1), (image, 0)])["labels"].tolist() == [1, 0]
    collator = AlignMixCollator(image_column="x", label_column="y")
    assert collator([{"x": image, "y": torch.tensor([0.5, 0.5])}] * 2)["labels"].shape == (2, 2)
    assert "labels" not in AlignMixCollator()([{"pixel_values": image}] * 2)
    cifar100 = {"img": image, "coarse_label": 3, "fine_label": 7}
    assert AlignMixCollator()([cifar100] * 2)["labels"].tolist() == [7, 7]


def test_bad_examples_are_named() -> None:
    rows = [Rows(9)[index] for index in range(4)]
    with pytest.raises(ValueError, match=r"labels must be class indices in \[0, 3\), got 3"):
        AlignMixCollator(num_classes=3)(rows)
    assert AlignMixCollator(num_classes=1)(rows[:2])["labels"].tolist() == [0, 1]  # binary targets
    with pytest.raises(ValueError, match=r"image_column must be one of the columns \['label', 'photo'\]"):
        AlignMixCollator()([{"photo": 0, "label": 0}])
    with pytest.raises(ValueError, match=r"columns \['label'\], got 'pixel_values'. .*remove_unused_columns=False"):
        AlignMixCollator()([{"label": 0}])  # what the Trainer leaves of a dataset with a column "image"
    with pytest.raises(ValueError, match=r"label_column must be one of the columns .* got 'class'"):
        AlignMixCollator(label_column="class")(rows)
    with pytest.raises(ValueError, match="images must be tensors"):
        AlignMixCollator()([{"image": "a.png", "label": 0}])
    with pytest.raises(ValueError, match="alpha must be > 0, got -1"):
        AlignMixCollator(alpha=-1)
    with pytest.raises(ValueError, match="modes must be chosen from"):
        AlignMixCollator(modes=("cutmix",))


IMAGE = torch.zeros(3, 32, 32)


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (
            {"img": IMAGE, "coarse_label": 3},
            r"none of the columns \['coarse_label', 'img'\] is one of labels, label, fine_",
        ),
        ({"image": IMAGE, "target": 3}, r"columns \['image', 'target'\] .* pass label_column to AlignMixCollator"),
        ({"pixel_values": IMAGE}, r"columns \['pixel_values'\] .* set remove_unused_columns=False"),
        ({"image": IMAGE, "label": None}, "the label of every example is None"),
        ((IMAGE, None), "the label of every example is None"),
        ((IMAGE,), "tuples without a second item"),
    ],
    ids=["CIFAR-100 without its fine labels", "target", "dropped columns", "None", "None in a tuple", "one item"],
)
def test_examples_without_labels_can_be_evaluated_and_not_trained_on(example: object, reason: str) -> None:
    model = AlignMixModel(timm.create_model("test_resnet", num_classes=10), input_size=(3, 32, 32))
    for collator in (AlignMixCollator(), AlignMixCollator(prob=0)):
        batch = pickle.loads(pickle.dumps(collator([example] * 2)))  # as from a data worker
        with pytest.raises(ValueError, match="training needs labels, and the batch has none: .*" + reason):
            model.train()(**batch)
    output = model.eval()(**batch)
    assert list(output) == ["logits"]
    assert output.loss is None
    assert output.logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([{"image": IMAGE, "label": 1}, {"image": IMAGE, "label": None}], "got None in 1 of 2"),
        ([{"image": IMAGE, "label": "cat"}] * 2, r"class indices, .* got \['str'\], such as 'cat'. .* class_encode"),
        ([{"image": IMAGE, "label": ["cat", "pet"]}] * 2, r"labels must be class indices .* got \['list'\]"),
        ([(IMAGE, [1.0, 0.0]), (IMAGE, [1.0])], r"targets of one shape, got \['list'\]"),
        ([(IMAGE, torch.zeros(2)), (IMAGE, torch.zeros(3))], "targets of one shape"),
        ([(IMAGE, object())] * 2, r"of one shape, got \['object'\]"),
        ([IMAGE, IMAGE], r"examples must be mappings or \(image, label\) tuples, got Tensor"),
        ([()] * 2, "got tuple without items"),
    ],
)
def test_labels_that_are_none_are_named(examples: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignMixCollator()(examples)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor], ids=["list", "tuple", "array", "tensor"])
@pytest.mark.parametrize("values", [[0.0, 1.0, 0.5], [0, 1, 1], [False, True, True]], ids=["soft", "int", "bool"])
def test_targets_of_an_example_are_a_row_whatever_holds_them(kind: Callable[[list], object], values: list) -> None:
    labels = AlignMixCollator(num_classes=3)([(IMAGE, kind(values)), (IMAGE, kind(values[::-1]))])["labels"]
    assert torch.equal(dense_targets(labels, 3), torch.tensor([values, values[::-1]]).float())


def test_a_default_device_moves_no_draw_and_no_label() -> None:
    torch.set_default_device("meta")
    try:
        for options in ({}, {"prob": 0}, {"mixer": CutMix(minmax=(0.2, 0.8))}):
            batch = AlignMixCollator(**options)([(IMAGE, 1), (IMAGE, 0)])
            tensors = (batch["labels"], batch["mix"].lam, batch["mix"].perm, *batch["mix"].extra.values())
            assert {tensor.device.type for tensor in tensors} == {"cpu"}
    finally:
        torch.set_default_device(None)


def test_dense_targets_of_every_kind() -> None:
    assert torch.equal(dense_targets(torch.tensor([2, 0]), 3), torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    soft = torch.rand(2, 3)
    assert torch.equal(dense_targets(soft, 3), soft)
    assert torch.equal(dense_targets(torch.tensor([1, 0]), 1), torch.tensor([[1.0], [0.0]]))
    smoothed = dense_targets(torch.tensor([2]), 4, 0.2)
    assert torch.allclose(smoothed, torch.tensor([[0.05, 0.05, 0.85, 0.05]]))
    for labels in (torch.rand(4), torch.rand(4, 2), torch.zeros(4, 3, 2)):
        with pytest.raises(ValueError, match=r"labels must be class indices \[B\] or targets \[B, 3\]"):
            dense_targets(labels, 3)
    with pytest.raises(ValueError, match=r"labels must be a tensor .* got list"):
        dense_targets([0, 1], 3)
