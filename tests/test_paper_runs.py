"""The runs behind the paper's tables: the settings of every cell at the paper's scale, and a run of the small one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from batch_probe import write_images
from launcher import ROOT
from PIL import Image
from safetensors.torch import load_file

from alignmix_timm import Autoencoder
from alignmix_timm.evaluation.activation_maps import activation_maps
from alignmix_timm.evaluation.boxes import score_map
from alignmix_timm.evaluation.localization import localization, overlap
from alignmix_timm.evaluation.pixel_model import PixelModel
from alignmix_timm.mixers import AlignMixup, NoMixing
from alignmix_timm.paper import full, small
from alignmix_timm.paper.command import DATA
from alignmix_timm.paper.images import Images
from alignmix_timm.paper.measures import measure_all
from alignmix_timm.paper.methods import METHODS
from alignmix_timm.paper.numbers import paper_tables
from alignmix_timm.paper.results import read_lines
from alignmix_timm.paper.runner import describe, processor
from alignmix_timm.paper.scales import runs
from alignmix_timm.paper.step_time import ratio, step_seconds

CONFIGS = ROOT / "recipes" / "configs"
TABLES = paper_tables()


def cells_of_the_paper() -> list[dict[str, Any]]:
    """One run of each config of the paper's scale."""
    found = {json.dumps(run["config"]): run for table in TABLES.values() for run in runs("paper", table, CONFIGS, 1)}
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("run", cells_of_the_paper(), ids=describe)
def test_every_cell_of_the_paper_dry_runs(run: dict[str, Any], tmp_path: Path) -> None:
    config = full.training_config(run, "any", tmp_path)
    full.train_alone(replace(config, dry_run=True, pretrained=False, workers=0))


@pytest.mark.slow
def test_a_run_of_the_paper_is_trained_once_and_measured(tmp_path: Path) -> None:
    run = runs("paper", TABLES["table7"], CONFIGS, 1)[0]
    shorter = {"epochs": 2, "eval_every": 1, "batch_size": 32, "max_train_samples": 64, "max_eval_samples": 40}
    other = {"image_column": "image", "label_column": "label", "num_classes": 10, "workers": 0}
    run["config"] |= shorter | other | {"model_args": {"width": 4}}
    data = str(ROOT / DATA["fashion_mnist"])
    found = full.train(run, data, {"itself_resize": data}, tmp_path)
    assert found["best_error"] <= found["error"] == pytest.approx(100 - found["accuracy"])
    assert found["images"] | {"itself_resize": 2000} == found["images"]
    (folder,) = tmp_path.iterdir()
    before = (folder / "metrics.jsonl").read_text()
    assert full.train(run, data, None, tmp_path)["nll"] == found["nll"]
    assert (folder / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_a_run_of_table_4_is_localized_with_its_last_weights(tmp_path: Path) -> None:
    write_images(tmp_path / "cub", 6)
    write_images(tmp_path / "cub", 5, "test")
    names = [f"class{label}/{number}.png" for label in range(4) for number in range(5)]
    lines = {
        "image_ids": names,
        "class_labels": [f"{name},{name[5]}" for name in names],
        "image_sizes": [f"{name},64,64" for name in names],
        "localization": [f"{name},{8 * int(name[5])},4,60,40" for name in names],
    }
    (tmp_path / "boxes").mkdir()
    for name, written in lines.items():
        (tmp_path / "boxes" / f"{name}.txt").write_text("\n".join(written))
    run = next(run for run in runs("paper", TABLES["table4"], CONFIGS, 1) if run["config"]["mixers"] == ["alignmix"])
    smaller = {"model": "test_resnet", "pretrained": False, "num_classes": 4, "img_size": 64, "align_size": None}
    run["config"] |= smaller | {"epochs": 6, "eval_every": 1, "lr": 0.1, "workers": 0}
    arguments = run, str(tmp_path / "cub"), None, tmp_path / "runs"
    with pytest.raises(ValueError, match="boxes must be given for cub"):
        full.train(*arguments)
    assert not (tmp_path / "runs").exists()
    found = full.train(*arguments, tmp_path / "boxes")

    (folder,) = (tmp_path / "runs").iterdir()
    net: Any = timm.create_model(f"local-dir:{folder / 'last_model'}", pretrained=True).eval()
    last = load_file(folder / "last" / "model.safetensors")
    assert all(torch.equal(value, last[name]) for name, value in net.state_dict().items())
    correct, overlaps = [], []
    mean, std = (torch.tensor(net.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    for name in names:
        pixels = torch.from_numpy(np.array(Image.open(tmp_path / "cub" / "test" / name))).permute(2, 0, 1) / 255
        logits, maps = activation_maps(net, ((pixels - mean) / std)[None])
        label = int(name[5])
        correct.append(int(logits.argmax()) == label)
        overlaps.append(overlap(score_map(maps[0, label], 64, 64), np.array([[8 * label, 4, 60, 40]])))
    expected = localization(
        np.array(correct), np.array([each.largest for each in overlaps]), np.stack([each.by_level for each in overlaps])
    )
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["error"] == 100 - 5 * sum(correct)
    assert full.train(*arguments, tmp_path / "boxes") == found  # nothing is trained again


def cells_of_the_small() -> list[dict[str, Any]]:
    """One run of each config of the small scale, on the images of the project."""
    found = [run for table in TABLES.values() for run in runs("small", table, CONFIGS, 1)]
    return [run for index, run in enumerate(found) if run not in found[:index] and run["config"]["data"] == "cifar100"]


@pytest.mark.slow
@pytest.mark.parametrize("run", cells_of_the_small(), ids=describe)
def test_every_cell_of_the_small_scale_trains(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "ATTACKED", 10)
    config = {**run["config"], "epochs": 1, "classes": 5, "images_per_class": 20}
    found = small.train({**run, "config": config}, str(ROOT / DATA["fashion_mnist"]), None)
    assert 0 <= found["error"] < 100
    assert 0 < found["nll"] < 10


def test_a_run_that_diverges_has_no_result() -> None:
    run = next(run for run in cells_of_the_small() if run["config"]["mixers"] == ["none"])
    config = {**run["config"], "epochs": 1, "classes": 2, "images_per_class": 25, "lr": 1e30}
    with pytest.raises(FloatingPointError, match=r"diverged.* small cifar100 preact_resnet18 none, seed 0"):
        small.train({**run, "config": config}, str(ROOT / DATA["fashion_mnist"]), None)


class Brightness(torch.nn.Module):
    """Two classes by the mean pixel, with confidence that grows with the distance from grey."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = 8 * images.mean((1, 2, 3))
        return torch.stack([-level, level], 1)


def test_steps_are_timed_in_turns_of_one_network_and_of_others() -> None:
    def broken() -> Any:
        raise ValueError("no weights")

    net: Any = timm.create_model("alignmix_encoder", backbone="test_resnet", grid=2, img_size=64, num_classes=100)
    mixer = AlignMixup(modes=("clean",))
    autoencoder = Autoencoder(net, (3, 64, 64), decoder_width=8, mean=(0.5,) * 3, std=(0.5,) * 3, mixer=mixer)
    makers: dict[str, Any] = {"none": NoMixing, "alignmix": AlignMixup, "stylemix": broken}
    times = step_seconds("test_resnet", 64, 4, makers, 3, 2, torch.device("cpu"), {"ae": (autoencoder, mixer)})
    assert list(times) == ["none", "alignmix", "ae"]
    assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in times.values())
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0


def test_all_measures_of_a_network_that_is_known() -> None:
    pixels = torch.cat([torch.full((6, 3, 8, 8), 16), torch.full((4, 3, 8, 8), 240)]).to(torch.uint8)
    labels = torch.tensor([0] * 5 + [1] + [1] * 4)  # one dark image is labelled bright
    outliers = {"grey": torch.full((5, 3, 8, 8), 127, dtype=torch.uint8)}
    model = PixelModel(Brightness(), [0.5] * 3, [0.5] * 3)
    found = measure_all(model, Images(pixels, labels), outliers, attacked=10)
    assert found["error"] == pytest.approx(10)
    assert found["accuracy"] == pytest.approx(90)
    assert found["ece"] == pytest.approx(10, abs=0.01)  # certain, and right in nine of ten
    assert found["fgsm"] == found["pgd"] == pytest.approx(10)  # 8 levels do not make a dark image bright
    assert found["nan_logits"] == found["pgd_zero_gradient"] == 0
    assert found["ood"]["grey"]["auroc"] == 100
    assert found["images"] == {"test": 10, "attacked": 10, "grey": 5, "uniform": 10, "gaussian": 10}
    assert sum(found["bins"]["examples"]) == 10
    assert "ood" not in measure_all(model, Images(pixels, labels), None, attacked=2)


def test_small_rows_are_the_first_of_classes_spread_over_all() -> None:
    training, test = small.rows(str(ROOT / "recipes" / "data" / "fashion_mnist"), 5, 3)
    assert training.labels.bincount().tolist() == [3] * 5
    assert set(test.labels.tolist()) == set(range(5))
    assert training.pixels.shape == (15, 3, 32, 32)


LINES = [
    line
    for line in read_lines(ROOT / "recipes" / "results" / "tables")
    if line["config"].get("data") == "fashion_mnist"
]


@pytest.mark.slow
@pytest.mark.skipif(not LINES, reason="no run on the images of the project yet")
def test_a_committed_number_comes_out_again() -> None:
    """The quickest committed run, anew: to the last bit on the hardware and versions that it was made with."""
    line = min(LINES, key=lambda line: line["seconds"])
    found = small.train(line, str(ROOT / DATA["fashion_mnist"]), None)
    alike = line["hardware"] == processor() and line["versions"]["torch"] == torch.__version__.partition("+")[0]
    for name in ("error", "nll", "ece", "fgsm"):
        expected = line["result"][name]
        assert found[name] == (expected if alike else pytest.approx(expected, rel=0.05)), name


def test_every_method_of_the_paper_has_a_row() -> None:
    for name, table in TABLES.items():
        assert name == "table8" or table.rows.keys() <= METHODS.keys()
