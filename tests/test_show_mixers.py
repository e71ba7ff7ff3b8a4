"""The sheet of all ways of mixing: its images and targets are those that the mixers make of the pair."""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from launcher import ROOT
from style import Identity
from training import EMBEDDED

from alignmix_timm.mixers import Cutout, InputMixup, StyleMix


@pytest.fixture(scope="module")
def recipe() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes"))
        yield importlib.import_module("show_mixers")


@pytest.fixture(scope="module")
def pair(recipe: Any) -> Any:
    return recipe.load_pair(EMBEDDED, 32, 1)


def test_the_pair_is_of_two_classes_and_follows_from_the_seed(recipe: Any, pair: Any, tmp_path: Path) -> None:
    again, other = recipe.load_pair(EMBEDDED, 32, 1), recipe.load_pair(EMBEDDED, 24, 2)
    assert torch.equal(pair.images, again.images)
    assert pair.labels[0] != pair.labels[1]
    assert other.images.shape == (2, 3, 24, 24)
    assert not torch.equal(pair.labels, other.labels)
    rows = datasets.load_dataset(str(EMBEDDED), split="test")
    alike = [row for row, label in enumerate(rows["label"]) if label == 9]
    for split in ("train", "test"):
        rows.select(alike).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match="data must have test images of two classes, got only 'Ankle boot'"):
        recipe.load_pair(tmp_path, 32, 0)


def shown(axes: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(axes.images[0].get_array())).permute(2, 0, 1) * 2 - 1


def test_every_mixed_image_stands_above_its_target(recipe: Any, pair: Any) -> None:
    pair = pair._replace(images=torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    mixers, left_out = recipe.made(None, {})
    assert {"mixup", "cutmix", "cutout", "saliencymix"} <= {mixer.name for mixer in mixers}
    reasons = {name: left_out[name] for name in ("alignmix", "manifold", "stylemix", "stylecutmix")}
    assert list(reasons.values()) == ["features are mixed"] * 2 + ["files of weights are missing"] * 2
    mixers.append(StyleMix(codec=Identity(), size=None, prob=1.0))
    args = argparse.Namespace(lam=0.25, seed=0)
    figure = recipe.sheet(pair, mixers, reasons, timm.create_model("test_resnet", num_classes=10), args)
    bottom = "alignmix, manifold (features are mixed); stylemix, stylecutmix (files of weights are missing)"
    assert figure.get_supxlabel().replace("\n", " ") == f"Not shown: {bottom}."
    cells = {axes.get_title().split("\n")[0]: axes for axes in figure.axes if axes.images}
    assert list(cells) == ["first", "second", *(type(mixer).__name__ for mixer in mixers)]
    own, other = (pair.names[label] for label in pair.labels)
    targets = {name: axes.get_title().split("\n")[1] for name, axes in cells.items()}
    assert targets["second"] == f"1.00 {other}"
    assert targets["InputMixup"] == f"0.75 {other} + 0.25 {own}"
    assert targets["Cutout"] == f"1.00 {own}"
    images = {name: shown(axes).float() for name, axes in cells.items()}
    assert torch.allclose(images["InputMixup"], 0.25 * pair.images[0] + 0.75 * pair.images[1], atol=1e-5)
    for name in ("CutMix", "SaliencyMix"):
        kept = torch.isclose(images[name], pair.images[0], atol=1e-5).all(0)
        assert torch.allclose(images[name][:, ~kept], pair.images[1][:, ~kept], atol=1e-5)
        (share,) = re.findall(rf"([\d.]+) {own}", targets[name])
        assert float(share) == pytest.approx(kept.float().mean().item(), abs=0.006)


def test_options_are_those_of_the_mixers(recipe: Any) -> None:
    mixers, left_out = recipe.made(["mixup", "cutout"], {"cutout.side": 0.25})
    assert (mixers, left_out) == ([InputMixup(), Cutout(side=0.25)], {})
    for names, options, message in (
        (
            ["mixup"],
            {"cutout.side": 0.25},
            "mixer_args must be MIXER.ARGUMENT=value of one of mixup, got 'cutout.side'",
        ),
        (["stylemix"], {}, "stylemix: codec must be given"),
        (None, {"cutout.side": 3}, "cutout: side must be a share"),
        (["cutmax"], {}, "Did you mean 'cutmix'"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe.made(names, options)


def test_the_command_draws_and_names_what_is_wrong(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["show_mixers.py", "--mixers", "cutmix", "saliencymix", "--out", "of/pair.png"])
    recipe.main()
    assert capsys.readouterr().out == "Look at of/pair.png.\n"
    assert (tmp_path / "of" / "pair.png").read_bytes().startswith(b"\x89PNG")
    for words, message in (
        (["--lam", "2"], r"error: lam must be in \[0, 1\], got 2.0"),
        (["--mixers", "stylemix"], "error: stylemix: codec must be given"),
    ):
        monkeypatch.setattr(sys, "argv", ["show_mixers.py", *words])
        with pytest.raises(SystemExit):
            recipe.main()
        assert re.search(message, capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    monkeypatch.setattr(sys, "argv", ["show_mixers.py"])
    with pytest.raises(SystemExit):
        recipe.main()
    assert "error: pictures need matplotlib: pip install 'alignmix-timm[plots]'" in capsys.readouterr().err
