"""The picture of an alignment, and the command that draws it for two image files."""

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor

from alignmix_timm import assign, choose_point
from alignmix_timm.__main__ import main as command
from alignmix_timm.alignment import Alignment
from alignmix_timm.points import show
from alignmix_timm.points.picture import colors, draw_alignment
from alignmix_timm.points.positions import Positions
from alignmix_timm.points.weights import size_of_images, trained_model
from alignmix_timm.publishing.save import save_for_timm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, one of them grey and upright, and weights of a small model with three classes."""
    folder, rng = tmp_path_factory.mktemp("show"), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).resize((240, 180)).save(folder / "first.png")
    Image.fromarray(rng.integers(0, 255, (30, 20), dtype=np.uint8)).save(folder / "second.png")
    (folder / "text.png").write_text("no image")
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3)
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    images = [str(folder / "first.png"), str(folder / "second.png")]
    return ["test_resnet", *images, "--weights", str(folder / "model.safetensors"), "--image-size", "64", *more]


def places(grid: tuple[int, int] = (3, 5)) -> Positions:
    point = choose_point(timm.create_model("test_resnet", num_classes=3), (3, 64, 64))
    rows, columns = (torch.arange(side)[:, None] / side + torch.tensor([0, 1 / side]) for side in grid)
    return Positions(point, 1, rows.double(), columns.double())


def test_each_position_has_a_color_of_its_own_and_neighbours_have_similar_ones() -> None:
    shades = colors(places((14, 14)))
    assert shades.shape == (196, 3)
    assert 0 <= shades.min() <= shades.max() <= 1
    distances = torch.cdist(shades, shades).fill_diagonal_(1)
    assert distances.min() > 0.01
    neighbours = shades.view(14, 14, 3)
    assert max(neighbours.diff(dim=axis).norm(dim=2).max().item() for axis in (0, 1)) < 0.35


def test_positions_of_the_second_have_the_color_of_their_partner() -> None:
    grid = places()
    permutation = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    plan = 0.9 * torch.eye(15)[permutation] + 0.1 / 15  # position i of the first is partner of permutation[i]
    images = torch.rand(2, 3, 30, 50, generator=torch.Generator().manual_seed(1)) * 2 - 1
    figure = draw_alignment(images, plan, grid, (1, 3), "$title")
    first, second, heat, _ = figure.axes
    own, theirs = (axis.collections[0].get_facecolors()[:, :3] for axis in (first, second))
    assert np.allclose(own, colors(grid))
    assert np.allclose(theirs[permutation], own)
    assert np.allclose(first.collections[0].get_offsets()[7], (24.5, 14.5))  # the centre of the image
    assert np.allclose(first.collections[1].get_offsets(), first.collections[0].get_offsets()[8])
    assert np.allclose(heat.images[1].get_array(), plan[8].view(3, 5))
    assert heat.images[1].get_extent() == heat.images[0].get_extent()
    for axis, image in zip((first, second, heat), (0, 1, 1), strict=True):
        assert np.allclose(axis.images[0].get_array(), (images[image].permute(1, 2, 0) + 1) / 2)
    for wrong in ((3, 0), (0, 5), (-1, 0)):
        with pytest.raises(ValueError, match=r"position must be a row in \[0, 2\] and a column in \[0, 4\], got"):
            draw_alignment(images, plan, grid, wrong, "")


def test_the_command_draws_the_plan_at_the_place_of_the_model(folder: Path, tmp_path: Path) -> None:
    figure = show.picture(show._parser().parse_args(arguments(folder, "--position", "1", "2")))
    net = timm.create_model("test_resnet", num_classes=3).eval()
    net.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    point = choose_point(net, (3, 64, 64))
    assert figure.get_suptitle().startswith(f"test_resnet at {point.feature_module}, ")
    outputs: list[Tensor] = []
    net.get_submodule(point.feature_module).register_forward_hook(lambda module, args, output: outputs.append(output))
    mean, std = (torch.tensor(net.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    for name, box in (("first.png", (30, 0, 210, 180)), ("second.png", (0, 5, 20, 25))):
        image = Image.open(folder / name).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC, box)
        with torch.no_grad():
            net(((torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std)[None])
    x, y = (output.flatten(2).mT for output in outputs)
    plan = assign(x, y).assignment[0]
    rows, columns = point.map_size
    expected = plan[1 * columns + 2].view(rows, columns)
    assert np.allclose(figure.axes[2].images[1].get_array(), expected, atol=0.02)


def test_the_command_writes_a_picture_for_any_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "picture.png"
    monkeypatch.setattr(
        sys, "argv", ["alignmix-timm", "show", *arguments(folder, "--place", "layer1", "--out", str(out))]
    )
    command()
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(out) as image:
        assert image.width == 900


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: "missing.png"}, "image must be an image file, got .*missing.png, which does not exist"),
        ({2: "text.png"}, "image must be an image file, got .*text.png, which cannot be read as one"),
        ({0: "test_resnt"}, "timm has no model 'test_resnt'. Did you mean 'test_resnet'"),
        ({0: "crossvit_9_240"}, "The file must hold weights of this model"),
        ({4: "missing.safetensors"}, "weights must be a file, got .*, which does not exist"),
        ({6: "32", 7: "--place", 8: "layer4"}, "error"),
        ({7: "--place", 8: "fc"}, "module 'fc' has no spatial positions"),
        ({7: "--out", 8: "picture.jpg"}, "out must end in .png, got picture.jpg"),
        ({7: "--epsilon", 8: "-1"}, "epsilon must be > 0, got -1"),
        ({7: "--position", 8: "99", 9: "0"}, r"position must be a row in \[0, "),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[int, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    line = arguments(folder)
    for place, value in sorted(change.items()):
        line[place : place + 1] = [str(folder / value) if value.startswith(("missing", "text")) else value]
    with pytest.raises(SystemExit, match=message) as caught:
        show.main(line)
    assert str(caught.value).startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["0", "-32", "a", "64.5"])
def test_no_size_of_images_is_refused(folder: Path, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        show.main([*arguments(folder)[:-1], size])
    assert f"argument --image-size: must be an integer >= 1, got '{size}'" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [2, 4, 6])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_model_of_other_channels_is_refused(folder: Path, tmp_path: Path, channels: int, name: str) -> None:
    net = timm.create_model(name, num_classes=3, in_chans=channels)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "model.safetensors")
    line = [name, *arguments(folder)[1:3], "--weights", str(tmp_path / "model.safetensors")]
    with pytest.raises(
        SystemExit, match=f"model must take RGB or grey images, got .*, which takes images of {channels}"
    ):
        show.main(line)


def test_weights_are_fitted_to_the_size_of_the_images(folder: Path, tmp_path: Path) -> None:
    """As timm does for the folder of a model, and exactly those of the file where nothing has to be fitted."""
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_classes=3)
    save_for_timm(net, tmp_path, ["a", "b", "c"], {"input_size": (3, 160, 160), "mean": (0.5,) * 3, "std": (0.5,) * 3})
    file = tmp_path / "model.safetensors"
    expected = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=96).state_dict()
    for weights, model in ((file, "test_vit"), (None, f"local-dir:{tmp_path}")):
        found = trained_model(model, weights, 96)
        assert size_of_images(found, 96) == (3, 96, 96)
        if weights is not None:
            assert found.state_dict().keys() == expected.keys()
            assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
            assert str(tmp_path) not in str(found.pretrained_cfg)
        assert choose_point(found, (3, 96, 96)).map_size == (6, 6)
    same = trained_model("test_vit", file).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in net.state_dict().items())


def test_first_convolutions_of_rearranged_patches_take_colour_images(tmp_path: Path) -> None:
    net = timm.create_model("tresnet_m", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    found = trained_model("tresnet_m", tmp_path / "weights.pth")
    assert size_of_images(found, None) == (3, 224, 224)
    assert torch.equal(found.body.conv1.conv.weight, net.body.conv1.conv.weight)


def test_a_model_that_cannot_be_mixed_is_refused(folder: Path) -> None:
    images = [str(folder / "first.png"), str(folder / "second.png")]
    with pytest.raises(SystemExit, match="has no map of at least 4 x 4 positions"):
        show.main(["test_resnet", *images, "--weights", str(folder / "model.safetensors"), "--image-size", "4"])


def test_without_matplotlib_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    with pytest.raises(SystemExit, match=r"pictures need matplotlib: pip install 'alignmix-timm\[plots\]'"):
        show.main(arguments(folder))


def test_blocks_are_drawn_where_the_map_is_aligned_in_blocks(folder: Path) -> None:
    figure = show.picture(show._parser().parse_args(arguments(folder, "--place", "conv1")))
    net = timm.create_model("test_resnet", num_classes=3)
    grid = Positions.of(choose_point(net, (3, 64, 64), "conv1"), Alignment())
    assert grid.block > 1
    assert len(figure.axes[0].collections[0].get_offsets()) == len(grid)
