"""The parts ``ood`` and ``calibration`` of ``alignmix-timm evaluate``, and reliability diagrams of several models."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from alignmix_timm.evaluation.calibration import row_scores, summary
from alignmix_timm.evaluation.ood import detection, gaussian_noise, max_softmax, uniform_noise
from alignmix_timm.publishing.save import save_for_timm
from alignmix_timm.suite.command import main
from alignmix_timm.suite.compare_calibration import main as compare
from alignmix_timm.suite.ood import OutOfDistribution
from alignmix_timm.suite.outliers import Named, fit, parse_sets

MEAN, STD, SIZE = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1), (3, 32, 32)
IMAGES, PHOTOS, LABELS = 9, 5, [0, 1, 2, 0, 1, 2, 0, 1, 2]


def pictures(count: int, seed: int, mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> list[Image.Image]:
    """Noise at size (H, W), which a network does not tell from other noise as surely as from smooth images."""
    rng = np.random.default_rng(seed)
    shape = (*size, 3) if mode == "RGB" else size
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)]


def save_images(folder: Path, images: Sequence[Image.Image], suffix: str = "png") -> Path:
    """A folder of files, without labels."""
    folder.mkdir(parents=True)
    for place, image in enumerate(images):
        image.save(folder / f"{place}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3).eval()
    torch.nn.init.normal_(net.fc.weight, std=0.3)
    return net


@pytest.fixture(scope="module")
def folder(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the data in two formats, grey photos of another size without labels, and the results."""
    folder = tmp_path_factory.mktemp("ood")
    sized = {"input_size": SIZE, "mean": MEAN, "std": STD, "crop_pct": 1.0, "interpolation": "bilinear"}
    save_for_timm(net, folder / "model", ["ant", "bee", "cat"], sized)
    images = pictures(IMAGES, 0)
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "bee", "cat"]))
    rows = datasets.Dataset.from_dict({"image": images, "label": LABELS}, features=features)
    datasets.DatasetDict(train=rows.select(range(2)), test=rows).save_to_disk(str(folder / "data"))
    rows.shuffle(seed=1).remove_columns("label").save_to_disk(str(folder / "copy"))
    save_images(folder / "reencoded", images[::-1], "bmp")
    save_images(folder / "photos", pictures(PHOTOS, 1, "L", (48, 50)))
    features = datasets.Features(image=datasets.Image())
    datasets.Dataset.from_dict({"image": [None]}, features=features).save_to_disk(str(folder / "missing"))
    for name in ("empty", "nothing"):
        (folder / name).mkdir()
    rows.select([]).to_parquet(folder / "empty" / "test.parquet")
    evaluate(folder, "--suite", "ood", "calibration", "--ood-outliers", *SETS, f"photos={folder / 'photos'}")
    return folder


SETS = ("uniform", "gaussian")


def evaluate(folder: Path, *arguments: str, out: str = "out") -> dict[str, Any]:
    given = [folder / "model", "--data", folder / "data", "--out", folder / out, "--workers", 0, *arguments]
    return main(list(map(str, given)))


def results(folder: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((folder / out / "evaluation.json").read_text())


def logits_of(net: Any, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        return net((pixels - mean) / std)


def data_logits(net: Any) -> Tensor:
    return logits_of(net, torch.stack([to_tensor(image) for image in pictures(IMAGES, 0)]))


def test_the_command_gives_what_the_measures_give(folder: Path, net: Any) -> None:
    """Grey images are shown to the model as RGB ones; noise is as much as there are images."""
    photos = [
        to_tensor(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
        for image in pictures(PHOTOS, 1, "L", (48, 50))
    ]
    sets = {
        "uniform": uniform_noise(range(IMAGES), SIZE),
        "gaussian": gaussian_noise(range(IMAGES), SIZE),
        "photos": torch.stack(photos),
    }
    found = results(folder)["parts"]["ood"]
    assert found["settings"]["outliers"]["photos"]["rows"] == PHOTOS
    assert str(folder.parent) not in (folder / "out" / "evaluation.json").read_text()
    inliers = max_softmax(data_logits(net))
    expected = {
        f"{name}/{key}": value
        for name, pixels in sets.items()
        for key, value in detection(inliers, max_softmax(logits_of(net, pixels))).items()
    }
    assert found["values"] == pytest.approx(expected, abs=1e-3)
    assert len({found["values"][f"{name}/auroc"] for name in sets}) > 1


def test_calibration_is_that_of_the_logits_and_its_bins_are_kept(folder: Path, net: Any) -> None:
    found = results(folder)["parts"]["calibration"]
    expected = summary(row_scores(data_logits(net), torch.tensor(LABELS)))
    assert found["values"] == pytest.approx(expected, abs=1e-3)
    bins = found["details"]["bins"]
    gaps = np.abs(np.array(bins["correct"]) - bins["confidence"])
    assert 100 * gaps.sum() / sum(bins["examples"]) == pytest.approx(expected["ece"], abs=1e-3)
    assert sum(bins["examples"]) == IMAGES


def test_pictures_are_drawn(folder: Path) -> None:
    for name in ("ood.png", "reliability.png"):
        with Image.open(folder / "out" / name) as picture:
            assert min(picture.size) > 300


@pytest.mark.slow
def test_the_batch_size_changes_nothing_and_each_option_something(folder: Path) -> None:
    first = results(folder)["parts"]["ood"]["values"]
    photos = f"photos={folder / 'photos'}:train"
    again = evaluate(folder, "--suite", "ood", "--batch-size", "2", "--ood-outliers", *SETS, photos, out="again")
    assert again["parts"]["ood"]["values"] == pytest.approx(first, abs=1e-4)
    options = ("--ood-fit", "crop", "--ood-noise-std", "1", "--ood-outliers", "gaussian", photos)
    others = evaluate(folder, "--suite", "ood", *options, out="options")["parts"]["ood"]["values"]
    assert others.keys() == {key for key in first if not key.startswith("uniform/")}
    added = evaluate(folder, "--suite", "ood", "--ood-additive", out="additive")["parts"]["ood"]["values"]
    for name, changed in (("photos", others), ("gaussian", others), ("uniform", added), ("gaussian", added)):
        keys = [key for key in first if key.startswith(f"{name}/")]
        assert any(changed[key] != pytest.approx(first[key], abs=1e-3) for key in keys), name


@pytest.mark.parametrize(
    ("outliers", "message"),
    [
        ("data", "whose other splits are in-distribution, too"),
        ("data:train", "whose other splits are in-distribution, too"),
        ("copy", "must be other images than the data, and 9 of 9 are among them"),
        ("reencoded", "must be other images than the data, and their logits are the same"),
        ("missing", "the outliers 'other' have no confidences: the image of row 0 cannot be read: it is missing"),
        ("empty", "the outliers 'other' cannot be used: cannot load split 'test'"),
        ("nothing", "the outliers 'other' cannot be used"),
        ("nowhere", "the outliers 'other' cannot be used"),
        ("photos:nowhere", "the outliers 'other' cannot be used"),
    ],
)
def test_outliers_that_are_none_are_refused_before_anything_is_written(
    folder: Path, outliers: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate(folder, "--suite", "ood", "--ood-outliers", f"other={folder / outliers}", out="refused")
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "refused").exists()


def settings_of(*outliers: str) -> dict[str, Any]:
    options = Namespace(ood_outliers=outliers, ood_noise_std=0.5, ood_fit="crop", ood_additive=True, rows=None, seed=0)
    return OutOfDistribution().settings(options)


def test_settings_notice_other_images_at_the_same_path(tmp_path: Path) -> None:
    """Also where names and sizes of files are the same."""
    bitmap = save_images(tmp_path / "photos", pictures(2, 5), "bmp") / "0.bmp"
    found = []
    for seed in (0, 1, 0):
        pictures(1, seed)[0].save(bitmap)
        found.append(settings_of("uniform", f"photos={tmp_path / 'photos'}"))
    assert found[0] == found[2] != found[1]


def test_one_of_several_columns_of_images_is_named(tmp_path: Path) -> None:
    two = {"left": pictures(3, 0), "right": pictures(3, 1)}
    datasets.Dataset.from_dict(two).to_parquet(tmp_path / "test.parquet")
    for where in (tmp_path, f"{tmp_path}:test"):
        with pytest.raises(ValueError, match=r"may be any of left, right.* Of outliers, pass .*,image=COLUMN"):
            settings_of(f"pair={where}")
        left, right = (settings_of(f"pair={where},image={side}") for side in ("left", "right"))
        assert left != right


def test_sets_are_named(tmp_path: Path) -> None:
    with_colon = save_images(tmp_path / "a:b", [])
    texts = ["uniform", "lsun=USER/lsun", "isun=USER/isun:test", "c=x=y", f"d={with_colon}", f"e={with_colon}:test"]
    texts += ["f=USER/x:test,config=full,image=photo", "g=x,y=z,image=photo"]
    assert parse_sets(texts) == [
        Named("uniform"),
        Named("lsun", "USER/lsun"),
        Named("isun", "USER/isun", "test"),
        Named("c", "x=y"),
        Named("d", str(with_colon)),
        Named("e", str(with_colon), "test"),
        Named("f", "USER/x", "test", "full", "photo"),
        Named("g", "x,y=z", None, None, "photo"),
    ]


@pytest.mark.parametrize("text", ["salt", "=x", "a=", "a/b=x", "a b=x", "", "uniform=", "USER/lsun"])
def test_what_names_no_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ood_outliers must be uniform, gaussian, NAME=DATA or NAME=DATA:SPLIT"):
        parse_sets([text])


def test_two_sets_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="must have different names, got 'uniform' twice"):
        parse_sets(["uniform", "a=x", "uniform=y"])


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_noise_must_have_a_deviation(folder: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate(folder, "--suite", "ood", f"--ood-noise-std={value}", out="refused")
    assert "ood_noise_std must be > 0 and finite" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 50), (33, 97), (5, 7), (1, 40), (31, 32)])
@pytest.mark.parametrize("target", [(32, 32), (24, 40)])
def test_images_of_any_size_are_cropped_or_resized_to_that_of_the_model(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    (picture,) = pictures(1, 3, size=size)
    resized, cropped = fit(picture, target, "resize"), fit(picture, target, "crop")
    assert resized.shape == cropped.shape == (3, *target)
    assert torch.equal(resized, to_tensor(picture.resize(target[::-1], Image.Resampling.BILINEAR)))
    if size[0] >= target[0] and size[1] >= target[1]:  # pixels as they are
        whole = to_tensor(picture)
        found = any(
            torch.equal(cropped, whole[:, top : top + target[0], left : left + target[1]])
            for top in [round((size[0] - target[0]) / 2)]
            for left in [round((size[1] - target[1]) / 2)]
        )
        assert found
    else:  # no margin that was not in the picture
        bright = fit(Image.new("L", size[::-1], 255), target, "crop")
        assert torch.equal(bright, torch.ones(1, *target))


def test_reducing_an_image_averages_its_pixels() -> None:
    """Without antialiasing, single pixels stand for many."""
    checks = Image.fromarray((255 * (np.indices((128, 128)).sum(0) % 2)).astype(np.uint8))
    assert fit(checks, (32, 32), "resize").std() < 0.01


def test_diagrams_of_several_models_are_drawn_from_their_results(folder: Path, tmp_path: Path) -> None:
    results_file = folder / "out" / "evaluation.json"
    compare([str(folder / "out"), f"again={results_file}", "--out", str(tmp_path / "figure.png")])
    with Image.open(tmp_path / "figure.png") as both, Image.open(folder / "out" / "reliability.png") as one:
        assert both.size[0] == pytest.approx(2 * one.size[0], rel=0.1)


def test_models_that_cannot_be_compared_are_refused(folder: Path, tmp_path: Path) -> None:
    content = results(folder)
    other = {**content, "data": {**content["data"], "sha256": "0"}}
    without = {**content, "parts": {"ood": content["parts"]["ood"]}}
    for name, changed in (("other", other), ("without", without)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(changed))
    first = str(folder / "out")
    for arguments, message in (
        ([first, f"b={tmp_path / 'other'}"], "must be evaluated on the same images and labels"),
        ([first, f"b={tmp_path / 'without'}"], "has no results of calibration"),
        ([first, first], "the names of models must differ"),
        ([str(tmp_path / "nowhere")], "results must be a folder with an evaluation.json"),
    ):
        with pytest.raises(SystemExit, match=message):
            compare([*arguments, "--out", str(tmp_path / "no.png")])
    assert not (tmp_path / "no.png").exists()
