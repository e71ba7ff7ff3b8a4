"""``alignmix-timm evaluate``: right numbers whatever the batches and processes, results that last, one sentence."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from launcher import launcher
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor
from training import command, finish, kill_when

from alignmix_timm.publishing.save import save_for_timm
from alignmix_timm.suite import command as suite
from alignmix_timm.suite.context import full_precision
from alignmix_timm.suite.data import load_data
from alignmix_timm.suite.labels import class_indices
from alignmix_timm.suite.subject import load_subject

CLASSES = ["ant", "bee", "cat"]
SIZE = {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.1], "crop_pct": 0.9}
SIZE |= {"interpolation": "bicubic"}


def network(classes: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=classes, **options).eval()


def save_model(folder: Path, classes: list[str] = CLASSES, channels: int = 3, bias: float = 0.0) -> Path:
    net = network(len(classes), in_chans=channels)
    torch.nn.init.constant_(net.fc.bias, bias)
    sized = {"input_size": [channels, 32, 32], "mean": SIZE["mean"][:channels], "std": SIZE["std"][:channels]}
    save_for_timm(net, folder, classes, SIZE | sized)
    return folder


def rows(count: int, names: list[str] = CLASSES, kind: Any = None) -> datasets.Dataset:
    """Images of noise, of several sizes, with labels in turn."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40 + 3 * row, 50, 3), dtype=np.uint8) for row in range(count)]
    labels = [row % len(names) for row in range(count)]
    features = datasets.Features(image=datasets.Image(), label=kind or datasets.ClassLabel(names=names))
    return datasets.Dataset.from_dict({"image": list(map(Image.fromarray, images)), "label": labels}, features=features)


def save_data(folder: Path, **splits: datasets.Dataset) -> Path:
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data") / "noise", train=rows(3), test=rows(11))


def evaluate(*arguments: Any) -> dict[str, Any]:
    return suite.main([*map(str, arguments), "--workers", "0"])


def values(content: dict[str, Any]) -> dict[str, float]:
    return {key: value for part in content["parts"].values() for key, value in part["values"].items()}


def logits_by_timm(folder: Path, images: list[Image.Image]) -> Tensor:
    """As a card says: timm's own transform, which normalises, and the model."""
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(net))
    with torch.no_grad():
        return torch.cat([net(transform(image)[None]) for image in images])


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    with pytest.raises(SystemExit):
        evaluate(*arguments)
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def first(model: Path, data: Path) -> dict[str, Any]:
    return evaluate(model, "--data", data, "--suite", "accuracy", "calibration", "--batch-size", 4)


def test_a_saved_model(model: Path, data: Path, first: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    content = evaluate(model, "--data", data, "--suite", "accuracy", "calibration")  # which stand already
    assert content == first
    split = datasets.load_from_disk(str(data))["test"]
    labels, logits = torch.tensor(split["label"]), logits_by_timm(model, list(split["image"]))
    assert values(content)["top1_error"] == pytest.approx(100 * (logits.argmax(1) != labels).double().mean().item())
    assert "top5_error" not in values(content)  # of three classes
    assert content["data"]["split"] == "the split test"
    assert content["data"]["labels"] == "label, by name"
    assert content["model"]["name"] == model.parent.name
    file = model.with_name("model-evaluation") / "evaluation.json"
    assert json.loads(file.read_text()) == content
    assert content["parts"]["accuracy"]["metrics"]["top1_error"]["definition"].startswith("Share of images")
    assert content["parts"]["accuracy"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert re.search(f"^top-1 error % +{values(content)['top1_error']:.2f}$", capsys.readouterr().out, re.MULTILINE)

    before = file.read_bytes()
    assert evaluate(model, "--data", data, "--suite", "accuracy", "--batch-size", 11) == content
    assert f"accuracy stands in {file}, and is not measured again." in capsys.readouterr().out
    other = refused(capsys, model, "--data", data, "--split", "train")
    assert "has results of other data: split 'the split test', now 'the split train'" in other
    assert other.endswith("Pass another --out, or --overwrite.")
    assert file.read_bytes() == before
    again = evaluate(model, "--data", data, "--suite", "accuracy", "--rows", 5, "--overwrite", "--batch-size", 2)
    assert (again["data"]["rows"], list(again["parts"])) == (5, ["accuracy"])


def test_neither_batches_nor_the_order_of_rows_matter(model: Path, first: dict[str, Any], tmp_path: Path) -> None:
    data = save_data(tmp_path / "data", test=rows(11).shuffle(seed=1))
    line = [model, "--data", data, "--out", tmp_path / "out", "--suite", "accuracy", "calibration"]
    assert values(evaluate(*line, "--batch-size", 11)) == pytest.approx(values(first), abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_timm(channels: int, tmp_path: Path) -> None:
    subject = load_subject(str(save_model(tmp_path / "model", channels=channels)))
    picture = next(iter(rows(1)["image"])).convert(subject.mode)
    pixels = subject.transform(picture)[None]
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert pixels.shape == (1, channels, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(subject.model(pixels), logits_by_timm(tmp_path / "model", [picture]))


def test_pixels_are_the_same_however_deep_they_are_stored(model: Path, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    subject, found = load_subject(str(model)), []
    for name, pixels in (("8", drawn), ("16", drawn * np.uint16(257)), ("float", drawn / np.float32(255))):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "image.tiff")
        found.append(load_data(str(tmp_path / name)).images(subject)[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be the folder of a run, or one saved for timm; .* has no config\.json"):
        load_subject(str(tmp_path))
    with pytest.raises(ValueError, match="timm has no model 'resnet19'"):
        load_subject("resnet19")
    torch.save(network(0).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(
        ValueError, match=r"(?s)cannot be loaded: .*fc.weight.* The file must hold weights of this model"
    ):
        load_subject("test_resnet", tmp_path / "weights.pt")


INTEGER, STRING = datasets.Value("int64"), datasets.Value("string")


@pytest.mark.parametrize(
    ("labels", "kind", "names", "options", "found"),
    [
        ([0, 1], datasets.ClassLabel(names=["cat", "ant"]), CLASSES, {}, [2, 0]),
        ([0, 2], datasets.ClassLabel(names=["x", "y", "z"]), None, {}, [0, 2]),
        ([0, 2], datasets.ClassLabel(names=["x", "y", "z"]), CLASSES, {"by_number": True}, [0, 2]),
        ([2, 0], INTEGER, None, {}, [2, 0]),
        ([2, 0], INTEGER, CLASSES, {}, [2, 0]),
        ([7, 3], INTEGER, ["3", "5", "7"], {}, [2, 0]),
        (["cat", "ant"], STRING, CLASSES, {}, [2, 0]),
        (["10", "9", "1"], STRING, None, {}, [2, 1, 0]),  # in the order in which timm sorts folders
    ],
)
def test_labels_as_classes_of_the_model(labels: list, kind: Any, names: Any, options: Any, found: list[int]) -> None:
    table = datasets.Dataset.from_dict({"label": labels}, features=datasets.Features(label=kind))
    assert class_indices(table, "label", names, 3, **options)[0].tolist() == found


@pytest.mark.parametrize(
    ("labels", "kind", "names", "message"),
    [
        (
            [0, 1],
            datasets.ClassLabel(names=["ant", "dog"]),
            CLASSES,
            "1 of 2 classes that the model does not have: 'dog'",
        ),
        ([0, 1], datasets.ClassLabel(names=["ant", "dog"]), None, "must have the 3 classes of the model, .* got 2"),
        ([0, 3], INTEGER, None, r"must be in \[0, 3\), the classes of the model, got 3"),
        ([0, -1], INTEGER, None, "must be a class in every row, got None or a negative number"),
        ([0, None], datasets.ClassLabel(names=CLASSES), CLASSES, "must be a class in every row"),
        ([0.5], datasets.Value("float32"), None, "must hold classes, integers or strings"),
    ],
)
def test_labels_without_a_class_of_the_model(labels: list, kind: Any, names: Any, message: str) -> None:
    table = datasets.Dataset.from_dict({"label": labels}, features=datasets.Features(label=kind))
    with pytest.raises(ValueError, match=message):
        class_indices(table, "label", names, 3)


def test_only_the_labels_are_read() -> None:
    columns = {"image": [{"bytes": b"no image"}] * 2, "label": [2, 0]}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(image=datasets.Image(), label=INTEGER))
    assert class_indices(table, "label", None, 3)[0].tolist() == [2, 0]


def test_nan_logits_are_wrong_and_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "PARTS", [part for part in suite.PARTS if part.name in ("accuracy", "calibration")])
    broken = save_model(tmp_path / "model", bias=float("nan"))
    assert values(evaluate(broken, "--data", data)) == {"top1_error": 100, "nan_logits": 100}
    said = capsys.readouterr().out
    assert "The logits of 11 of 11 images are NaN." in said
    assert "Left out: calibration needs confidences, and 11 images have NaN" in said
    assert "calibration needs confidences" in refused(capsys, broken, "--data", data, "--suite", "calibration")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "speed"], "invalid choice: 'speed'"),
        (["--rows", "0"], "must be an integer >= 1, got '0'"),
        (["--split", "nowhere"], "cannot load split 'nowhere'"),
        (["--label-column", "name"], "label_column must be one of the columns ['image', 'label'], got name"),
        (["--out", "FILE"], "out must be a folder that can be written, got"),
        (["--split", "strange", "--suite", "accuracy"], "accuracy needs labels: 'label' has 1 of 2 classes that"),
        (["--weights", "nowhere"], "weights must be a file, got nowhere, which does not exist"),
        (["--weights", "/"], "weights must be a file, got /, which is none"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = rows(2, ["ant", "dog"])
    folder = save_data(tmp_path / "data", test=rows(2), strange=unknown)
    (tmp_path / "FILE").touch()
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    arguments = [str(tmp_path / one) if one == "FILE" else one for one in arguments]
    said = refused(capsys, model, "--data", folder, *out, *arguments)
    assert message in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE", "data"]


def test_an_empty_split(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    rows(2).select([]).to_parquet(tmp_path / "data" / "test.parquet")
    said = refused(capsys, model, "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert "cannot load split 'test'" in said
    assert "corresponds to no data. Pass" in said
    saved = save_data(tmp_path / "saved", train=rows(2), test=rows(2).select([]))
    said = refused(capsys, model, "--data", saved, "--out", tmp_path / "out")
    assert "cannot load the splits of" in said
    assert "saved': one of them has no rows. Pass --data" in said
    assert not (tmp_path / "out").exists()


def test_a_model_of_one_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single = save_model(tmp_path / "model", ["ant"])
    folder = save_data(tmp_path / "data", test=rows(2, ["ant"]))
    said = refused(capsys, single, "--data", folder, "--suite", "accuracy", "calibration")
    assert "accuracy needs a model of at least 2 classes, this one has 1." in said


def test_data_without_labels(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_data(tmp_path / "data", test=rows(2).remove_columns("label"))
    said = refused(capsys, model, "--data", folder, "--out", tmp_path / "out", "--suite", "accuracy")
    assert "accuracy needs labels: none of the columns ['image'] is known to hold any: pass --label-column." in said


def test_an_image_that_cannot_be_read(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = rows(2).cast_column("image", datasets.Image(decode=False))
    broken = whole.map(lambda row, number: {"image": {"bytes": b"no image"}} if number else row, with_indices=True)
    folder = save_data(tmp_path / "data", test=broken.cast_column("image", datasets.Image()))
    said = refused(capsys, model, "--data", folder, "--out", tmp_path / "out")
    assert said.endswith("the image of row 1 cannot be read: cannot identify image file. Take it out of the data.")
    assert not (tmp_path / "out").exists()


def test_precision_is_full_and_put_back() -> None:
    own: Any = torch.backends
    switches = (own.cuda.matmul, own.mkldnn.matmul, own.cudnn.conv, own.mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    with full_precision():
        assert {switch.fp32_precision for switch in switches} == {"ieee"}
    assert [switch.fp32_precision for switch in switches] == before


def run_command(model: Path, data: Path, out: Path, processes: int = 1) -> list[str]:
    start = launcher(processes) if processes > 1 else [sys.executable]
    line = [*start, "-m", "alignmix_timm", "evaluate", str(model), "--data", str(data), "--out", str(out)]
    return [*line, "--workers", "0", "--batch-size", "3"]


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "evaluation.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 11])
def test_two_processes_give_the_numbers_of_one(count: int, model: Path, tmp_path: Path) -> None:
    data = save_data(tmp_path / "data", test=rows(count))
    for processes in (1, 2):
        finish(run_command(model, data, tmp_path / f"{processes}", processes))
    one, two = (values(read(tmp_path / f"{processes}")) for processes in (1, 2))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == pytest.approx(value, abs=1e-4), key


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_with_the_next_part(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def first_part_done() -> bool:
        return (out / "evaluation.json").exists()

    finish(run_command(model, data, tmp_path / "whole"))
    kill_when(run_command(model, data, out), first_part_done)
    assert 0 < len(read(out)["parts"]) <= len(read(tmp_path / "whole")["parts"])
    said = finish(run_command(model, data, out))
    assert "accuracy stands in" in said
    assert read(out) == read(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_is_measured_on_the_rows_that_it_held_out(tmp_path: Path) -> None:
    data, run = save_data(tmp_path / "data", train=rows(60)), tmp_path / "run"
    finish(command(data, run, workers=0, epochs=1, val_fraction=0.25, seed=3))
    content = evaluate(run, "--data", data, "--suite", "accuracy")
    trained = json.loads((run / "model" / "provenance.json").read_text())["run"]
    assert content["data"] | {"sha256": None} == {
        **{"name": "data", "config": None, "revision": None, "sha256": None, "labels": "label, by name"},
        **{"split": "held-out rows of the split train", "rows": 15},
    }
    assert values(content)["top1_error"] == pytest.approx(100 - trained["results"]["top1"])
    assert content["model"]["weights"] == "EMA weights of the best evaluation, after optimizer step 1 of 1"
    assert (run / "model-evaluation" / "evaluation.json").is_file()
    whole = save_data(tmp_path / "others", train=rows(7))
    again = evaluate(run, "--data", whole, "--out", tmp_path / "whole", "--suite", "accuracy")
    assert (again["data"]["split"], again["data"]["rows"]) == ("the split train", 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_families(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=7)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    numbers = rows(4, [str(number) for number in range(7)]).add_column("box", [[5, 5, 30, 30]] * 4)
    data = save_data(tmp_path / "data", test=numbers)
    line = [name, "--weights", tmp_path / "weights.pt", "--data", data, "--out", tmp_path / "out"]
    content = evaluate(*line, "--robustness-pgd-steps", 1, "--localization-boxes", "box")
    whole = ["accuracy", "calibration", "ood", "robustness", "localization"]
    assert list(content["parts"]) == (whole[:-1] if name.startswith("vit") else whole)
    reason = "Left out: VisionTransformer has no class activation maps"
    assert (reason in capsys.readouterr().out) == name.startswith("vit")
    config = resolve_model_data_config(net)
    with torch.no_grad():
        images = torch.stack([create_transform(**config)(image) for image in numbers["image"]])
        right = net.eval()(images).topk(5).indices == torch.tensor(numbers["label"])[:, None]
    expected = {"top1_error": 100 * (~right[:, 0]).double().mean(), "top5_error": 100 * (~right.any(1)).double().mean()}
    assert {key: values(content)[key] for key in expected} == pytest.approx({k: float(v) for k, v in expected.items()})
    assert content["data"]["labels"] == "label, by number"
