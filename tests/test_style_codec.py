"""The weights of AdaIN: files of their layout are read, and all others are named."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from style import weight_files
from torch import Tensor
from training import records, save_rows

from alignmix_timm.mixers import load_codec, make_mixer
from alignmix_timm.training.main import main


def images(height: int, width: int) -> Tensor:
    return torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return weight_files(tmp_path_factory.mktemp("weights"))


def literal_codec(
    weights: dict[str, Tensor], values: Tensor, pools: tuple[int, ...], doublings: tuple[int, ...]
) -> Tensor:
    """A chain of layers by their numbers; each convolution but the first 1 x 1 follows a mirrored border."""
    last = max(int(key.partition(".")[0]) for key in weights)
    for number in range(last + 2):
        if number in pools:
            values = F.max_pool2d(values, 2)
        if number in doublings:
            values = values.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if f"{number}.weight" in weights:
            weight = weights[f"{number}.weight"]
            if weight.shape[2] == 3:
                values = F.pad(values, (1, 1, 1, 1), mode="reflect")
            values = F.conv2d(values, weight, weights[f"{number}.bias"])
            values = values if weight.shape[2] == 1 or weight.shape[0] == 3 else values.relu()
    return values


def test_the_files_of_adain_are_read(files: dict[str, str]) -> None:
    codec = load_codec(files["encoder"], files["encoder_sha256"], files["decoder"], files["decoder_sha256"])
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    batch = images(24, 16)
    features = codec.encode(batch)
    weights = torch.load(files["encoder"])
    del weights["32.weight"]
    assert features.shape == (4, 512, 3, 2)
    assert torch.allclose(features, literal_codec(weights, batch, (7, 14, 27), ()), atol=1e-5)
    expected = literal_codec(torch.load(files["decoder"]), features, (), (3, 16, 23))
    assert torch.allclose(codec.decode(features), expected, atol=1e-5)
    assert codec.decode(features).shape == batch.shape
    styles = codec.styles(batch)
    assert styles.shape == (4, 2 * (64 + 128 + 256 + 512))
    assert torch.allclose(styles[:, -1024:-512], features.mean((2, 3)))
    with pytest.raises(ValueError, match=r"sides of at least 16 that 8 divides, got \(3, 12, 20\). Set size"):
        codec.encode(images(12, 20))
    for shape in ((1, 16, 16), (3, 8, 8), (3, 16, 8)):
        with pytest.raises(ValueError, match=rf"3 channels and sides .* got \({', '.join(map(str, shape))}\)"):
            codec.encode(torch.zeros(2, *shape))
    assert codec.encode(torch.zeros(2, 3, 16, 16)).shape == (2, 512, 2, 2)


def test_files_that_are_not_what_they_should_be_are_named(files: dict[str, str], tmp_path: Path) -> None:
    def refused(message: str, **changed: str | None) -> None:
        with pytest.raises(ValueError, match=message):
            make_mixer("stylemix", **{**files, **changed})

    right = files["encoder_sha256"].lower()
    refused(f"encoder_sha256 must be the checksum of .*, got 12ab. That of the file is {right}", encoder_sha256="12ab")
    refused(f"encoder_sha256 must be the checksum of .*, got None. That of the file is {right}", encoder_sha256=None)
    swapped = {"encoder": files["decoder"], "encoder_sha256": files["decoder_sha256"]}
    refused("encoder must hold weights of the layout of pytorch-AdaIN, 0.weight, .* of another. Use vgg", **swapped)
    for content in (b"text", b""):
        broken = tmp_path / "broken.pth"
        broken.write_bytes(content)
        changed = {"decoder": str(broken), "decoder_sha256": hashlib.sha256(content).hexdigest()}
        refused("decoder must be a file of torch.save with weights alone, got .*broken.pth", **changed)
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    checksum = hashlib.sha256((tmp_path / "tensor.pth").read_bytes()).hexdigest()
    refused("decoder must", decoder=str(tmp_path / "tensor.pth"), decoder_sha256=checksum)


@pytest.mark.slow
def test_the_engine_trains_with_files_of_weights(tmp_path: Path, files: dict[str, str]) -> None:
    data = save_rows(tmp_path / "rows", train=96, test=20)
    AcceleratorState._reset_state(reset_partial_state=True)
    line = f"--data {data} --output {tmp_path / 'run'} --model test_resnet --img-size 32 --batch-size 8 --epochs 2 "
    line += "--workers 0 --lr 0.01 --log-every 1 --mixers stylemix stylecutmix saliencymix cutout --mixer-args "
    for name in ("stylemix", "stylecutmix"):
        line += " ".join(f"{name}.{key}={value}" for key, value in files.items()) + f" {name}.size=16 {name}.prob=1 "
    main(line.split())
    seen = {name for record in records(tmp_path / "run", "train") for name in record if name.startswith("loss_")}
    assert {"loss_stylemix", "loss_stylecutmix", "loss_saliencymix", "loss_cutout"} <= seen
