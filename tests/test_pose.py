"""Silhouettes, their overlap, intervals, and the table of the recipe."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from decoding import fresh_autoencoder, train_autoencoder
from launcher import ROOT
from torch import Tensor

from alignmix_timm.evaluation.bootstrap import bootstrap
from alignmix_timm.paper.interpolations import interpolate
from alignmix_timm.paper.pose import (
    ROWS,
    otsu_threshold,
    overlap,
    pose_overlaps,
    silhouette,
    with_differences,
)
from alignmix_timm.training.restore import load_autoencoder

RECIPE = ROOT / "recipes" / "measure_pose.py"


def pictures(kind: str) -> Tensor:
    """Grey images [8, 1, 32, 32] in [0, 1]."""
    rng = np.random.default_rng(0)
    if kind == "smooth":
        values = rng.beta(0.4, 0.8, (8, 1, 32, 32))
    elif kind == "8 bits":  # as files have them, with the whole range
        values = rng.integers(0, 256, (8, 1, 32, 32)) / 255 * (rng.random((8, 1, 32, 32)) < 0.6)
        values[:, :, 0, :2] = 0, 1
    else:
        values = np.full((8, 1, 32, 32), 0.7)
        values[:, :, 5:9, 5:20] = 0.8
    return torch.from_numpy(values).float()


def otsu_loop(image: np.ndarray) -> float:
    """The threshold of the largest between-class variance among all values that occur."""
    values = image.astype(np.float64).ravel()
    best, threshold = -1.0, values.max()
    for candidate in np.unique(values)[:-1]:
        darker, brighter = values[values <= candidate], values[values > candidate]
        variance = len(darker) * len(brighter) * (darker.mean() - brighter.mean()) ** 2
        if variance > best * (1 + 1e-12):
            best, threshold = variance, candidate
    return threshold


@pytest.mark.parametrize("kind", ["smooth", "8 bits", "two values"])
def test_otsu_is_the_best_of_all_thresholds(kind: str) -> None:
    images = pictures(kind)
    expected = [otsu_loop(image.numpy()) for image in images]
    assert otsu_threshold(images).tolist() == expected
    brighter = [image[0] > threshold for image, threshold in zip(images.double(), expected, strict=True)]
    assert torch.equal(silhouette(images), torch.stack(brighter))


def test_otsu_is_that_of_scikit_image() -> None:
    filters = pytest.importorskip("skimage.filters")
    images = pictures("8 bits")
    for image, found in zip(images.numpy(), silhouette(images).numpy(), strict=True):
        assert np.array_equal(image[0] > filters.threshold_otsu(image[0]), found)


def test_silhouettes_do_not_depend_on_brightness_and_contrast() -> None:
    images = pictures("two values")
    assert silhouette(images)[0].sum() == 4 * 15
    assert torch.equal(silhouette(images / 2 + 0.1), silhouette(images))
    assert torch.equal(silhouette(images.expand(-1, 3, -1, -1)), silhouette(images))
    assert not silhouette(torch.full((1, 1, 4, 4), 0.3)).any()
    colour = torch.zeros(1, 3, 4, 4)
    colour[:, 1, :2], colour[:, 2, 2:] = 0.5, 0.5  # green is brighter than blue
    assert silhouette(colour)[0].tolist() == [[True] * 4] * 2 + [[False] * 4] * 2


def test_overlap() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 5, 8, 8)) < 0.4
    second[3], first[4], second[4] = first[3], False, False
    expected = [(a & b).sum() / max((a | b).sum(), 1) for a, b in zip(first, second, strict=True)]
    assert overlap(torch.from_numpy(first), torch.from_numpy(second)).tolist() == expected
    assert expected[3:] == [1, 0]


def test_overlaps_of_decoded_images() -> None:
    model = fresh_autoencoder(1)
    model.net.embed.weight.data.mul_(100)  # so that decoded images differ
    first, second = (pictures(kind)[:4] * 4 - 2 for kind in ("smooth", "8 bits"))
    found = pose_overlaps(model, first, second)
    decoded = interpolate(model, first, second, (0.0, 1.0))
    images = dict(zip(ROWS, (decoded.aligned[0], decoded.unaligned[0], decoded.unaligned[1], first), strict=True))
    assert found.keys() == images.keys()
    for name, shown in images.items():
        for side, original in enumerate((first, second)):
            pairs = zip(shown.double().numpy(), original.double().numpy(), strict=True)
            masks = [[picture > otsu_loop(picture) for picture in pair] for pair in pairs]
            expected = [(a & b).sum() / (a | b).sum() for a, b in masks]
            assert np.allclose(found[name][:, side], expected, rtol=1e-12), name
    assert (found["first as it is"][:, 0] == 1).all()
    assert (found[ROWS[0]] != found[ROWS[1]]).all()
    batched = pose_overlaps(model, first, second, batch_size=3)
    assert all(np.allclose(batched[name], found[name], atol=0.01) for name in ROWS)  # other batches round otherwise


def test_differences_are_taken_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    overlaps = {name: rng.random((6, 2)) for name in ROWS}
    table = with_differences(overlaps)
    assert list(table) == [*ROWS[:2], "aligned - unaligned", *ROWS[2:]]
    aligned, unaligned = overlaps["aligned, lam = 0"], overlaps["unaligned, lam = 0"]
    assert np.allclose(table["aligned - unaligned"][:, :2], aligned - unaligned)
    assert all(np.allclose(values[:, 2], values[:, 0] - values[:, 1]) for values in table.values())


def test_intervals_are_those_of_the_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).beta(2, 3, (400, 2))
    found = bootstrap(values)
    assert found == bootstrap(values)
    for column, interval in zip(values.T, found, strict=True):
        expected = scipy.stats.bootstrap((column,), np.mean, method="percentile", rng=1).confidence_interval
        assert interval.mean == pytest.approx(column.mean())
        assert interval[1:] == pytest.approx(tuple(expected), abs=0.0015)  # a tenth of the width is 0.004


def table(printed: str) -> dict[tuple[str, str], list[list[float]]]:
    """Mean and bounds of every cell by run and row."""
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return {
        (run, kind): [[float(n) for n in re.findall(r"-?[\d.]+", c)] for c in cells] for run, kind, *cells in rows[1:]
    }


@pytest.mark.slow
def test_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_autoencoder(tmp_path, test=800)
    earlier = run / "checkpoints" / "step-00000002"

    def recipe(*args: object) -> str:
        monkeypatch.setattr(sys, "argv", [str(RECIPE), *map(str, args)])
        capsys.readouterr()
        runpy.run_path(str(RECIPE), run_name="__main__")
        return capsys.readouterr().out

    printed = recipe(run, earlier, "--pairs", 300)
    assert f"{run}: epsilon 0.05, 20 iterations, cost scale rms" in printed
    cells = table(printed)
    names = (str(run), str(earlier), "all")
    assert len(cells) == 3 * 5
    for name in names:
        for side in range(3):
            aligned, unaligned, difference = (
                cells[name, kind][side] for kind in ("aligned, lam = 0", "unaligned, lam = 0", "aligned - unaligned")
            )
            assert difference[0] == pytest.approx(aligned[0] - unaligned[0], abs=0.0016)
            assert difference[1] <= difference[0] <= difference[2]
        assert cells[name, "first as it is"] == cells["all", "first as it is"]
    for kind in ROWS:
        means = [cells[name, kind][0][0] for name in names]
        assert means[2] == pytest.approx((means[0] + means[1]) / 2, abs=0.0011)
    assert not load_autoencoder(run).training
    with pytest.raises(SystemExit):
        recipe(run, "--pairs", 299)
    assert "--pairs must be at least 300, got 299" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"error: .* must be the folder of a checkpoint or of a run"):
        recipe(tmp_path)
