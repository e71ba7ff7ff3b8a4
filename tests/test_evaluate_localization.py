"""The part ``localization`` of ``alignmix-timm evaluate``: right numbers, from a column and from files."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from launcher import ROOT
from PIL import Image
from test_evaluate import evaluate, network, read, refused, run_command, save_data, values
from training import finish

from alignmix_timm.evaluation.activation_maps import activation_maps
from alignmix_timm.evaluation.boxes import resized_boxes, score_map
from alignmix_timm.evaluation.localization import localization, overlap
from alignmix_timm.publishing.save import save_for_timm

sys.path.insert(0, str(ROOT / "recipes"))
import make_garments

CLASSES = ["ant", "bee", "cat"]
SIZE = {"input_size": [3, 64, 64], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.1], "crop_pct": 0.8}
BOX_FILES = "--localization-box-files"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    save_for_timm(network(3), folder, CLASSES, {**SIZE, "interpolation": "bilinear"})
    return folder


def pictures(count: int = 7) -> tuple[list[Image.Image], list[list[list[float]]]]:
    """Images of several sizes with a bright rectangle, and one or two boxes each."""
    rng, images, boxes = np.random.default_rng(0), [], []
    for row in range(count):
        pixels = rng.integers(0, 120, (50 + 5 * row, 70, 3), dtype=np.uint8)
        x, y = rng.integers(0, 20, 2).tolist()
        pixels[y : y + 30, x : x + 40] = 250
        images.append(Image.fromarray(pixels))
        boxes.append([[x + 0.5, y, x + 40, y + 30], [1, 1, 9, 12]][: 1 + row % 2])
    return images, boxes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, boxes = pictures()
    columns = {
        "image": images,
        "label": [row % 3 for row in range(len(images))],
        "boxes": boxes,
        "objects": [{"bbox": [[x, y, last_x - x, last_y - y] for x, y, last_x, last_y in row]} for row in boxes],
        "beyond": [*boxes[:-1], [[0.0, 0.0, 400.0, 40.0]]],
        "missing": [*boxes[:-1], []],
    }
    boxed = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=CLASSES),
        boxes=boxed,
        objects={"bbox": boxed},
        beyond=boxed,
        missing=boxed,
    )
    return save_data(
        tmp_path_factory.mktemp("data") / "boxes", test=datasets.Dataset.from_dict(columns, features=features)
    )


def localized(model: Path, data: Path, out: Path, *options: Any) -> dict[str, float]:
    return values(evaluate(model, "--data", data, "--suite", "localization", "--out", out, "--overwrite", *options))


@pytest.fixture(scope="module")
def expected(model: Path, data: Path) -> dict[str, float | None]:
    """By timm's model on images resized by Pillow, row by row."""
    net = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    mean, std = (torch.tensor(SIZE[name]).view(3, 1, 1) for name in ("mean", "std"))
    correct, found = [], []
    for row, (image, boxes) in enumerate(zip(*pictures(), strict=True)):
        pixels = torch.from_numpy(np.array(image.resize((64, 64), Image.Resampling.BILINEAR))).permute(2, 0, 1) / 255
        logits, maps = activation_maps(net, ((pixels - mean) / std)[None])
        correct.append(int(logits.argmax()) == row % 3)
        truth = resized_boxes(np.array(boxes), image.size, (64, 64))
        found.append(overlap(score_map(maps[0, row % 3], 64, 64), truth))
    return localization(np.array(correct), np.array([each[0] for each in found]), np.stack([each[1] for each in found]))


def test_a_column_of_boxes(
    model: Path, data: Path, expected: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    nested = ("--localization-boxes", "objects.bbox", "--localization-box-format", "xywh", "--batch-size", 2)
    assert localized(model, data, out, *nested) == pytest.approx(expected)
    assert 0 < expected["gt_known_loc"] < 100 or 0 < expected["max_box_acc_v2"] < 100
    assert Image.open(out / "localization.png").width > 1000
    assert "GT-known Loc %" in capsys.readouterr().out


def write_files(folder: Path, names: list[str], labels: list[int]) -> Path:
    images, boxes = pictures(len(names))
    lines: dict[str, list[str]] = {
        "image_ids": names,
        "class_labels": [f"{name},{label}" for name, label in zip(names, labels, strict=True)],
        "image_sizes": [f"{name},{image.width},{image.height}" for name, image in zip(names, images, strict=True)],
        "localization": [
            f"{name},{','.join(map(str, box))}" for name, own in zip(names, boxes, strict=True) for box in own
        ],
    }
    folder.mkdir()
    for kind, written in lines.items():
        (folder / f"{kind}.txt").write_text("\n".join(written) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in a folder of each class, and one more that has no box."""
    root = tmp_path_factory.mktemp("files") / "test"
    for row, image in enumerate(pictures()[0]):
        place = root / CLASSES[row % 3] / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
    image.save(root / "ant" / "other.png")
    return root.parent


def test_boxes_in_the_files_of_wsolevaluation(
    model: Path,
    folder: Path,
    expected: dict[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"{CLASSES[row % 3]}/{row}.png" for row in range(7)]
    listed = write_files(tmp_path / "listed", names, [row % 3 for row in range(7)])
    assert localized(model, folder, tmp_path / "out", BOX_FILES, listed) == pytest.approx(expected)

    arguments = (model, "--data", folder, "--suite", "localization", "--out", tmp_path / "no", BOX_FILES)
    mixed = write_files(tmp_path / "mixed", names, [row % 2 for row in range(7)])
    assert "class_labels.txt must have the classes of the data" in refused(capsys, *arguments, mixed)
    other = write_files(tmp_path / "other", [f"dog/{row}.png" for row in range(7)], [row % 3 for row in range(7)])
    assert "image_ids.txt must have paths of images of the data" in refused(capsys, *arguments, other)
    shifted = write_files(tmp_path / "shifted", names[1:], [row % 3 for row in range(1, 7)])
    assert "image_sizes.txt must have the sizes of the images" in refused(capsys, *arguments, shifted)
    (listed / "class_labels.txt").unlink()
    assert "class_labels.txt cannot be read" in refused(capsys, *arguments, listed)
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_done_is_said_in_a_sentence(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", data, "--out", tmp_path / "out", "--suite", "localization")
    asked = (*arguments, "--localization-boxes")
    assert "localization needs boxes: pass --localization-boxes" in refused(capsys, model, *arguments)
    assert "boxes must be one of the columns" in refused(capsys, model, *asked, "box")
    assert "lie in the image, xyxy in pixels, got [0.0, 0.0, 400.0, 40.0] in row 6" in refused(
        capsys, model, *asked, "beyond"
    )
    assert "each image must have a box, got none in row 6" in refused(capsys, model, *asked, "missing")
    assert "got both" in refused(capsys, model, *asked, "boxes", BOX_FILES, tmp_path)
    torch.manual_seed(0)
    save_for_timm(
        timm.create_model("test_vit", num_classes=3), tmp_path / "vit", CLASSES, {**SIZE, "input_size": [3, 160, 160]}
    )
    message = refused(capsys, tmp_path / "vit", *asked, "boxes")
    assert "VisionTransformer has no class activation maps: its logits are not the means" in message
    assert not (tmp_path / "out").exists()


def test_other_boxes_are_measured_anew_and_nothing_else(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same images and labels; columns that are not read may change."""
    rows, out = datasets.load_from_disk(str(data))["test"], tmp_path / "out"

    def changed(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, float]:
        images = save_data(tmp_path / name, test=rows.map(change, features=rows.features))
        options = ("--localization-boxes", "objects.bbox", "--localization-box-format", "xywh")
        return values(evaluate(model, "--data", images, "--out", out, "--suite", "accuracy", "localization", *options))

    first = changed("as they are", lambda row: {})
    capsys.readouterr()
    assert changed("unread", lambda row: {"boxes": [[0.0, 0.0, 5.0, 5.0]]}) == first
    assert "localization stands in" in capsys.readouterr().out
    small = changed("small", lambda row: {"objects": {"bbox": [[0.0, 0.0, 2.0, 2.0]]}})
    said = capsys.readouterr().out
    assert "accuracy stands in" in said
    assert "localization stands in" not in said
    assert small["max_box_acc_v2"] == 0 < first["max_box_acc_v2"]
    assert small["top1_error"] == first["top1_error"]


def test_without_labels_the_map_is_that_of_the_predicted_class(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlabelled = datasets.load_from_disk(str(data))["test"].remove_columns("label").select(range(2))
    found = localized(
        model, save_data(tmp_path / "data", test=unlabelled), tmp_path / "out", "--localization-boxes", "boxes"
    )
    assert found["top1_loc"] is None
    assert 0 <= found["gt_known_loc"] <= 100
    assert "The data have no labels: each map is that of the predicted class." in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(
    model: Path, data: Path, expected: dict[str, float], tmp_path: Path
) -> None:
    for processes in (1, 2):
        line = run_command(model, data, tmp_path / f"{processes}", processes)
        finish([*line, "--suite", "localization", "--localization-boxes", "boxes"])
        assert values(read(tmp_path / f"{processes}")) == pytest.approx(expected)


def test_garments_have_exact_boxes_and_follow_from_the_seed() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        image, garment = np.zeros((64, 64, 3), np.uint8), np.zeros((28, 28), np.uint8)
        garment[4:20, 9:25] = rng.integers(60, 256, (16, 16))
        boxes: list[list[int]] = []
        make_garments.put(image, garment, boxes, rng)
        y, x = np.nonzero(image.any(2))
        assert boxes == [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
    first, again, other = (make_garments.make(None, None, {"train": 3, "test": 5}, 48, 3, seed) for seed in (0, 0, 1))
    assert [len(first["train"]), len(first["test"])] == [3, 5]
    assert first["test"][:]["boxes"] == again["test"][:]["boxes"] != other["test"][:]["boxes"]
    pixels = [np.stack([np.asarray(image) for image in made["test"]["image"]]) for made in (first, again)]
    assert np.array_equal(*pixels)
    assert max(len(boxes) for boxes in first["test"]["boxes"]) > 1
    assert first["train"].features["label"].names[0] == "T-shirt/top"
