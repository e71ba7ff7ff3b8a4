"""The pictures of a run: what their axes show, from the lines of ``metrics.jsonl``."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignmix_timm.training.curves import curves_figure, draw_run, reliability_figure

RELIABILITY = {"examples": [0, 4, 6], "correct": [0, 1, 6], "confidence": [0.0, 2.0, 5.4]}


def train(step: int, **more: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, "epoch": step / 10, "lr": 1 / step, "loss": 2.0, "share_feat": 0.5, **more}


def evaluation(step: int, top1: float, ema: bool = False, **bins: Any) -> list[dict[str, Any]]:
    measured = {"rows": 10.0, "top1": top1, "top5": 99.0, "loss": 1.5, "ece": 16.0}
    if ema:
        measured |= {f"ema_{name}": value + 0.5 for name, value in measured.items()}
        bins = RELIABILITY | {f"ema_{name}": value for name, value in RELIABILITY.items()} | bins
    line = {"kind": "reliability", "step": step, **RELIABILITY, **bins}
    return [{"kind": "eval", "step": step, "epoch": step / 10, **measured}, line]


ALIGNED = dict(mixed_acc=0.25, marginal_error=2e-3, effective_correspondences=3.5, loss_feat=2.2, loss_input=1.8)
RUN = [train(5, **ALIGNED), train(10, loss_none=1.0), *evaluation(10, 60, True), *evaluation(20, 70, True)]


def panels(figure: Any) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes}


def lines(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*map(np.ndarray.tolist, line.get_data()), strict=True)) for line in axes.lines}


def legend(axes: Any) -> list[str]:
    return [] if axes.get_legend() is None else [text.get_text() for text in axes.get_legend().get_texts()]


def test_each_panel_has_its_metrics_units_and_legend() -> None:
    figure = curves_figure(RUN, "run-7")
    assert figure.get_suptitle() == "run-7"
    found = panels(figure)
    assert lines(found["alignment: effective correspondences"]) == {"effective_correspondences": [(5, 3.5)]}
    assert lines(found["alignment: marginal error"]) == {"marginal_error": [(5, 2e-3)]}
    for title, value, unit in (
        ("evaluation: top-1 accuracy", 60, "%"),
        ("evaluation: loss", 1.5, ""),
        ("evaluation: expected calibration error", 16, "%"),
    ):
        axes = found[title]
        assert axes.get_ylabel() == unit
        assert legend(axes) == ["weights", "EMA weights"]
        assert {name: line[0] for name, line in lines(axes).items()} == {
            "weights": (10, value),
            "EMA weights": (10, value + 0.5),
        }
    by_mode = {"all modes": [(5, 2), (10, 2)], "feat": [(5, 2.2)], "input": [(5, 1.8)], "none": [(10, 1)]}
    assert lines(found["training: loss, by mode of mixing"]) == by_mode
    assert legend(found["training: loss, by mode of mixing"]) == list(by_mode)
    assert {axes.get_xlabel() for axes in figure.axes} == {"optimizer step"}
    assert len({axes.get_xlim() for axes in figure.axes}) == 1


def test_a_run_without_alignment_or_average_has_no_panel_and_no_legend_of_them() -> None:
    figure = curves_figure([train(5), *evaluation(5, 60)], "run")
    assert not any(title.startswith("alignment") for title in panels(figure))
    assert legend(panels(figure)["evaluation: loss"]) == ["weights"]


@pytest.mark.parametrize("last", [1, 2, 7, 234, 3_000_000])
def test_steps_are_whole_numbers(last: int) -> None:
    figure = curves_figure([train(1), train(last), *evaluation(last, 60)], "run")
    figure.canvas.draw()
    for axes in figure.axes:
        labels = [tick.get_text() for tick in axes.get_xticklabels()]
        assert all(label.isdigit() for label in labels), labels
        assert len(set(labels)) == len(labels) > 1


def test_the_reliability_diagram_shows_the_bins_of_the_first_best_evaluation() -> None:
    better = {"ema_examples": [2, 4, 4], "ema_correct": [1, 1, 4], "ema_confidence": [0.5, 2.0, 3.8]}
    run = [*evaluation(1, 60, True), *evaluation(2, 80, True, **better), *evaluation(3, 80, True)]
    figure = reliability_figure(run, "run-7")
    assert figure.get_suptitle() == "run-7, step 2"
    plain, average, histogram, of_average = figure.axes
    assert plain.get_title() == "weights: top-1 80.0 %, ECE 16.0 %"
    assert average.get_title() == "EMA weights: top-1 80.5 %, ECE 16.5 %"
    accuracy, gap = plain.containers
    assert [bar.get_x() for bar in accuracy] == pytest.approx([1 / 3, 2 / 3])  # the empty bin has none
    assert [bar.get_height() for bar in accuracy] == [1 / 4, 1]
    assert [bar.get_y() + bar.get_height() for bar in gap] == pytest.approx([2 / 4, 5.4 / 6])
    assert [bar.get_height() for bar in average.containers[0]] == [1 / 2, 1 / 4, 1]
    assert [bar.get_height() for bar in histogram.patches] == pytest.approx([0, 0.4, 0.6])
    assert [bar.get_height() for bar in of_average.patches] == pytest.approx([0.2, 0.4, 0.4])
    (described,) = figure.legends
    assert sorted(text.get_text() for text in described.get_texts()) == [
        *("accuracy", "gap to mean confidence", "mean accuracy", "mean confidence", "perfectly calibrated")
    ]
    assert [plain.get_ylabel(), histogram.get_ylabel()] == ["accuracy", "share of images"]
    assert histogram.get_xlabel() == of_average.get_xlabel() == "confidence"


def test_without_an_average_there_is_one_diagram() -> None:
    figure = reliability_figure([*evaluation(1, 60, True), *evaluation(2, 50)], "run")  # resumed without it
    assert len(figure.axes) == 2
    assert figure.get_suptitle() == "run, step 1"


def write(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.mark.parametrize("name", ["läufe $b$", "100 % of $\\frac{"])
def test_any_name_of_a_folder_can_be_drawn(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / name, RUN)
    draw_run(folder)
    assert {path.name for path in folder.glob("*.png")} == {"curves.png", "reliability.png"}


def test_records_without_bins_or_without_an_evaluation_give_curves_alone(tmp_path: Path) -> None:
    for name, records in (("old", [train(1), evaluation(1, 60)[0]]), ("short", [train(1)])):
        folder = write(tmp_path / name, records)
        draw_run(folder)
        assert [path.name for path in folder.glob("*.png")] == ["curves.png"]


def test_without_matplotlib_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "run", RUN)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    with caplog.at_level(logging.WARNING):
        draw_run(folder)
    assert caplog.messages == ["No curves: pictures need matplotlib: pip install 'alignmix-timm[plots]'."]
    assert not list(folder.glob("*.png"))
