"""The pictures of the quickstart: what they show is what is mixed, and the plan that the network gives."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from launcher import ROOT

from alignmix_timm import assign, choose_point

NAMES = ["Ankle boot", "$x", "a class with a very long name", "T-shirt/top"]


@pytest.fixture(scope="module")
def pictures() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes"))
        yield importlib.import_module("pictures")


@pytest.fixture(scope="module")
def rows(pictures: Any) -> Any:
    pixels = torch.randint(256, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return pictures.Images(pixels, torch.arange(40) % len(NAMES))


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=len(NAMES)).eval()


def shown(axes: Any) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def row_of(rows: Any, axes: Any) -> int:
    """Which row an image is; each has other pixels."""
    levels = (shown(axes) * 255).round()
    return next(row for row in range(len(rows)) if np.array_equal(levels, rows.pixels[row].permute(1, 2, 0)))


@pytest.mark.parametrize("seed", [0, 1])
def test_each_mixed_image_stands_beside_its_sources(pictures: Any, rows: Any, seed: int) -> None:
    axes = [one for one in pictures.mixed_inputs(rows, NAMES, seed).axes if one.images]
    assert len(axes) == 3 * 8
    for first, second, mixed in zip(axes[::3], axes[1::3], axes[2::3], strict=True):
        lam, name = first.get_title().split(" x ")
        rest, other = second.get_title().removeprefix("+ ").split(" x ")
        assert float(lam) + float(rest) == pytest.approx(1, abs=0.011)
        assert np.allclose(shown(mixed), float(lam) * shown(first) + (1 - float(lam)) * shown(second), atol=0.006)
        numbers = row_of(rows, first), row_of(rows, second)
        assert numbers[0] != numbers[1]
        for shortened, row in zip((name, other), numbers, strict=True):
            assert NAMES[rows.labels[row]].startswith(shortened.rstrip("…"))
            assert len(shortened) <= 12


def test_the_alignment_shows_the_plan(pictures: Any, rows: Any, net: torch.nn.Module) -> None:
    first, second, heat, bar = pictures.alignment(net, rows, NAMES).axes
    assert row_of(rows, first) == 3  # the first of the last class, and the first of the one before it, as they are
    assert row_of(rows, second) == row_of(rows, heat) == 2
    assert bar.get_ylabel() == "weight"
    point = choose_point(net, rows.size)
    features: list[torch.Tensor] = []
    net.get_submodule(point.feature_module).register_forward_hook(lambda module, args, output: features.append(output))
    with torch.no_grad():
        net(torch.stack([rows[3][0], rows[2][0]]))
    tokens = features[0].flatten(2).mT
    plan = assign(tokens[:1], tokens[1:]).assignment[0]
    marked = (tokens[0] - tokens[0].mean(0)).norm(dim=1).argmax()
    assert np.allclose(heat.images[1].get_array(), plan[marked].view(point.map_size), atol=1e-4)
    dots, others = first.collections[0], second.collections[0]
    assert np.allclose(first.collections[1].get_offsets(), dots.get_offsets()[marked])
    assert np.allclose(others.get_facecolors(), dots.get_facecolors()[plan.argmax(0)])


@pytest.mark.parametrize("labels", [[1] * 40, [0, 2] * 20])
def test_classes_may_be_missing_from_the_test_split(pictures: Any, rows: Any, net: Any, labels: list[int]) -> None:
    first, second, *_ = pictures.alignment(net, pictures.Images(rows.pixels, torch.tensor(labels)), NAMES).axes
    assert row_of(rows, first) == labels.index(max(labels))
    assert row_of(rows, second) == labels.index(min(labels))


def test_both_are_written_and_without_matplotlib_a_sentence(
    pictures: Any, rows: Any, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pictures.draw_pictures(net, rows, rows, NAMES, tmp_path / "drawn", 0)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["alignment.png", "mixed_inputs.png"]
    assert re.search(r"^Look at .*mixed_inputs.png and .*alignment.png\.$", capsys.readouterr().out, re.MULTILINE)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    pictures.draw_pictures(net, rows, rows, NAMES, tmp_path / "none", 0)
    assert "No pictures: pictures need matplotlib: pip install 'alignmix-timm[plots]'.\n" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
