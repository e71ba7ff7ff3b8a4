"""A mixer is a class and a line in the registry: then wrapper, drop-in, engine and launcher train with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from script_runs import Launch
from torch import Tensor
from training import records, save_rows

from alignmix_timm import AlignMix, AlignMixCollator, AlignMixModel, MixParams, draw
from alignmix_timm.functional import mix_targets
from alignmix_timm.mixers import MIXERS, HookedNetwork, Mixed, Mixer, OneOf, make_mixer
from alignmix_timm.params import Place
from alignmix_timm.training.main import main


@dataclass(frozen=True)
class Halves(Mixer):
    """The upper part of one image over the lower of another, and a penalty."""

    name: ClassVar[str] = "halves"

    share: float = 0.5
    penalty: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be in (0, 1), got {self.share}.")

    def draw(self, batch_size: int, place: Place) -> MixParams:
        params = draw(batch_size, *place, modes=("input",))
        return replace(params, mixer=self.name, extra={"upper": torch.full((batch_size,), self.share)})

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        rows = torch.arange(images.shape[2], device=images.device)
        upper = rows < params.extra["upper"][:, None] * images.shape[2]
        images = torch.where(upper[:, None, :, None], images, images[params.perm])
        targets = mix_targets(targets, params.perm, upper.float().mean(1))
        return Mixed(images, targets, None if self.penalty is None else targets.new_tensor(self.penalty))


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    MIXERS[Halves.name] = Halves
    yield
    del MIXERS[Halves.name]


def batch() -> list[tuple[Tensor, int]]:
    return [(torch.full((3, 64, 64), float(label)), label) for label in range(4)]


def check(images: Tensor, targets: Tensor, share: float) -> None:
    """Halves of constant images tell the pair of each; so do the targets."""
    upper, lower = images[:, 0, 0, 0].long(), images[:, 0, -1, 0].long()
    rows = torch.arange(len(images))
    expected = torch.zeros_like(targets)
    expected[rows, upper] += share
    expected[rows, lower] += 1 - share
    assert torch.allclose(targets, expected)
    assert upper.tolist() == rows.tolist()


def test_the_wrapper_trains_with_it_and_adds_its_loss() -> None:
    mixer = make_mixer("halves", share=0.25, penalty=100.0)
    net = timm.create_model("test_resnet", num_classes=4)
    model = AlignMixModel(net, mixer=OneOf((mixer,)), input_size=(3, 64, 64)).train()
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    output = model(**AlignMixCollator(mixer=mixer)(batch()))
    output.loss.backward()
    check(seen[0], output.targets, 0.25)
    plain = torch.nn.functional.cross_entropy(output.logits, output.targets)
    assert output.loss.item() == pytest.approx(100 + plain.item())


def test_the_drop_in_trains_with_it_and_refuses_a_loss_that_nobody_would_add() -> None:
    net = timm.create_model("test_resnet", num_classes=4).train()
    images = torch.stack([image for image, _ in batch()])
    mixup_fn = AlignMix(net, mixer=Halves(), input_size=(3, 64, 64))
    mixed, targets = mixup_fn(images, torch.arange(4))
    check(mixed, targets, 0.5)
    assert mixup_fn.last == "halves"
    net(mixed)
    mixup_fn.detach()
    with pytest.raises(ValueError, match="mixer halves adds to the loss: use AlignMixModel"):
        AlignMix(net, mixer=Halves(penalty=1.0), input_size=(3, 64, 64))(images, torch.arange(4))


def test_the_engine_trains_with_it(tmp_path: Path) -> None:
    data = save_rows(tmp_path / "rows", train=96, test=20)
    AcceleratorState._reset_state(reset_partial_state=True)
    line = f"--data {data} --output {tmp_path / 'run'} --model test_resnet --img-size 32 --batch-size 8 --epochs 2 "
    line += "--workers 0 --lr 0.01 --log-every 1 --mixers halves alignmix manifold --mixer-args halves.share=0.25 "
    main([*line.split(), "halves.penalty=100", "manifold.layers=[1,layer3]"])
    losses: dict[str, Any] = {}
    for record in records(tmp_path / "run", "train"):
        losses |= {name: value for name, value in record.items() if name.startswith("loss_")}
    assert losses["loss_halves"] > 100
    assert {"loss_halves", "loss_manifold_1", "loss_manifold_layer3"} < set(losses)
    assert all(value < 100 for name, value in losses.items() if name != "loss_halves")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--mixers halves --mixer-args halves.share=2", r"halves: share must be in \(0, 1\), got 2"),
        ("--mixers halves --mixer-args halves.shares=2", "halves has no option 'shares'; it has share, penalty"),
        ("--mixers halfs", "Did you mean 'halves'"),
        (
            "--mixers cutmix --mixer-args halves.share=2",
            "mixer_args must be MIXER.ARGUMENT=value of one of cutmix, got",
        ),
        (
            "--mixers cutmix --mixer-args alpha=2",
            "mixer_args must be MIXER.ARGUMENT=value of one of cutmix, got 'alpha'",
        ),
        ("--mixers manifold --mixer-args manifold.layers=1", "manifold: layers must be a list"),
        ("--mixers stylemix", "stylemix: codec must be given, or both encoder and decoder, got none of them"),
    ],
)
def test_wrong_mixers_are_named_by_the_engine(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--data", "none", *arguments.split()])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_layer_that_does_not_exist_stops_a_run_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_rows(tmp_path / "rows", train=32, test=8)
    AcceleratorState._reset_state(reset_partial_state=True)
    line = f"--data {data} --output {tmp_path / 'run'} --model test_resnet --img-size 32 --batch-size 16 --workers 0 "
    with pytest.raises(SystemExit):
        main([*line.split(), "--mixers", "manifold", "--mixer-args", "manifold.layers=[7]"])
    assert "layer must be the number of a stage, got 7: ResNet has 4 stages" in capsys.readouterr().err


def shares(done: Any) -> Tensor:
    """Of the classes in the targets, without the script's label smoothing."""
    return torch.cat([(batch.targets - 0.1 / 4) / 0.9 for batch in done.probe.batches])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("--mixup halves --mixer-args share=0.25", "halves"),
        ("--mixup cutmix", "cutmix"),
        ("--mixup cutmix --mixer-args per_example=true minmax=[0.2,0.8] --no-prefetcher", "cutmix"),
        ("--mixup mixup --mixer-args alpha=0.4", "mixup"),
        pytest.param("--mixup cutout --mixer-args side=0.25", "cutout", marks=pytest.mark.slow),
        pytest.param("--mixup saliencymix --mixer-args per_example=true", "saliencymix", marks=pytest.mark.slow),
        ("--mixup puzzlemix --mixer-args blocks=[2,4]", "puzzlemix"),
        ("--mixup manifold --mixer-args layers=[2,layer3.0]", "manifold_"),
        pytest.param("--mixup comixup --mixer-args part=4", "comixup", marks=pytest.mark.slow),
    ],
)
def test_the_launcher_trains_with_every_mixer(launch: Launch, arguments: str, name: str) -> None:
    done = launch("data", *arguments.split())
    assert done.status == 0, done.err
    assert "8 batches, 8 mixed (" in done.err
    assert all(label.startswith(name) for label in done.modes)
    assert len(done.modes) == (2 if name == "manifold_" else 1)
    where = "features in place at layer2, layer3.0" if name == "manifold_" else "images"
    assert f"mixes {where}.\n  {name.strip('_')} (" in done.err
    assert torch.allclose(shares(done).sum(1), torch.ones(64), atol=1e-5)
    mixed = shares(done).amax(1).min() < 0.8
    assert name == "comixup" or mixed == (name != "cutout")  # Co-Mixup leaves images whole in a network so young
    if name == "halves":
        assert set(shares(done).amax(1).mul(4).round().tolist()) == {3.0, 4.0}
    assert launch("data", *arguments.split(), "--mixup-prob", 0.5).modes["none"] > 0


def test_cutmix_of_the_script_takes_turns_with_every_mixer(launch: Launch) -> None:
    done = launch("data", "--mixup", "manifold", "--cutmix", 1, "--epochs", 3)
    assert done.status == 0, done.err
    assert done.modes["cutmix"] > 0
    assert {"manifold_input", "manifold_1", "manifold_2"} & set(done.modes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--mixup cutmix --cutmix 1", "--mixup cutmix cannot be combined with --cutmix: use --mixer-args"),
        ("--mixup cutmix --cutmix-minmax 0.2 0.8", "--mixup cutmix cannot be combined with --cutmix: use --mixer-args"),
        ("--mixup mixup --mixer-args alpha", "--mixer-args must be NAME=VALUE, got 'alpha'"),
        ("--mixup mixup --mixer-args alfa=1", "mixup has no option 'alfa'"),
        ("--mixup mixup --mixer-args alpha=0", "mixup: alpha must be > 0, got 0"),
        ("--mixup mixup --alignmix-alpha 1", "--alignmix-alpha is for --mixup alignmix, got --mixup mixup"),
        ("--mixup alignmix --mixer-args alpha=1", "--mixer-args is for other mixers"),
        ("--mixup manifold --kd-model-name test_resnet", "--mixup manifold cannot be combined with --kd-model-name"),
        ("--mixup halfs", "halves or float value: 'halfs'"),
        ("--mixup none", "or float value: 'none'"),
    ],
)
def test_wrong_mixers_are_refused_by_the_launcher(launch: Launch, arguments: str, message: str) -> None:
    done = launch("data", *arguments.split())
    assert done.status == 2
    assert message in done.err
    assert not done.probe.batches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("comixup --mixer-args blocks=65", "blocks must be at most the sides of the images, 64 x 64, got 65"),
        pytest.param(
            "puzzlemix --mixer-args blocks=[7] --no-prefetcher",
            r"divides the sides of the images, got \[7\] for 64 x 64 pixels",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_images_that_a_mixer_cannot_take_stop_the_launcher(launch: Launch, arguments: str, message: str) -> None:
    done = launch("data", "--mixup", *arguments.split())
    assert done.status == 1
    assert re.search(f"alignmix-timm: batches cannot be mixed: .*{message}", " ".join(done.err.split()))
    assert not done.losses


def test_a_teacher_may_see_mixed_images(launch: Launch) -> None:
    done = launch("data", "--mixup", "cutmix", "--kd-model-name", "test_resnet", "--epochs", 1)
    assert done.status == 0, done.err
    assert done.modes == {"cutmix": 4}


def test_args_yaml_of_a_mixer_can_be_used_again(launch: Launch) -> None:
    first = launch("data", "--mixup", "cutmix", "--mixer-args", "alpha=0.5", "--epochs", 1)
    again = launch("-c", launch.folder / "output" / "args.yaml", "--output", "again")
    assert again.status == 0, again.err
    assert again.losses == first.losses
    (launch.folder / "own.yaml").write_text("data: data\nmixup: cutmix\nmixer_args: {alpha: 0.5}\nepochs: 1\n")
    assert launch("-c", "own.yaml", "--output", "own").losses == first.losses
