"""The lines of a run: within 120 columns, also where its numbers are large, and what they say."""

import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from alignmix_timm import __main__ as command
from alignmix_timm.training.console import _missing, data_lines, done_line, duration, epoch_line, train_line
from alignmix_timm.training.data.splits import Splits

LONG = {"loss": 0.000012345, "mixed_acc": 100.0, "lr": 1.2345e-05, "images_per_second": 12345.6, "epoch": 599.99}
EMA = {"top1": 99.98, "loss": 12.345678, "ece": 12.3456, "ema_top1": 100.0, "ema_loss": 11.3456, "ema_ece": 10.123}


def test_lines_fit_in_120_columns() -> None:
    assert len(train_line(LONG | {"share_feat": 100.0}, 600_000, 600_000, 99 * 3600, 99 * 3600)) <= 120
    assert len(epoch_line(600, 600, 12.345, 9 * 3600, EMA, True)) <= 120
    best = {"step": 123_456, **EMA}
    assert len(done_line(best, "ema_top1", 123_456, 21_841, Path("runs/imagenet-100"))) <= 120


def test_what_lines_say() -> None:
    record = {"loss": 2.5, "mixed_acc": 45.678, "lr": 0.0125, "images_per_second": 512.4, "epoch": 1.5}
    line = train_line(record | {"share_feat": 50.0, "share_none": 50.0}, 15, 100, 75, 3700)
    assert line == (
        "step 15/100, epoch 1.50: loss 2.500, mixed top-1 45.7 %, lr 0.0125, 512 img/s, in 1:15, 1:01:40 left"
    )
    assert ", top-1 45.7 %" in train_line(record | {"share_none": 100.0}, 15, 100, 75, 3700)
    del record["mixed_acc"]  # images that are only reconstructed
    assert "top-1" not in train_line(record | {"share_clean": 100.0}, 15, 100, 75, 3700)
    plain = {"top1": 84.3, "loss": 0.5, "ece": 3.21}
    assert epoch_line(2, 20, 1.25, 35, plain, True) == (
        "epoch 2/20 (0:35): train loss 1.25; top-1 84.30 %, loss 0.5, ECE 3.21 %; best so far"
    )
    assert epoch_line(2, 20, 1.25, 35, {}, False) == "epoch 2/20 (0:35): train loss 1.25"
    assert "EMA top-1 100.00 %, loss 11.35, ECE 10.12 %; without EMA 99.98 %" in epoch_line(2, 20, 1.0, 1, EMA, False)


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.7, "1:00"), (3599.8, "1:00:00"), (86400, "24:00:00")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_classes_without_a_held_out_row_are_named() -> None:
    rows = datasets.Dataset.from_dict({"label": [0, 0, 2]})
    splits = Splits(rows, rows, "image", "label", list("abcdefghij"), "train", held_out=True)
    assert _missing(splits) == "; none of b, d, e, f, g and 3 more"
    assert _missing(replace(splits, names=["a", "b", "c"])) == "; none of b"
    assert _missing(replace(splits, held_out=False)) == ""


def test_what_was_found_in_the_data_is_said() -> None:
    rows = datasets.Dataset.from_dict({"fine_label": [0]})
    splits = Splits(rows, rows, "image", "fine_label", ["a"], "test", found=["train", "test", "dev"])
    assert data_lines(splits) == ["Labels: fine_label; splits: train, test, dev."]
    more = replace(splits, other_labels=["coarse_label"], left_out=["split dev", *(f"{name}.zip" for name in "abcdef")])
    assert data_lines(more) == [
        "Labels: fine_label (not coarse_label: --label-column); splits: train, test, dev.",
        "Not used: split dev, a.zip, b.zip, c.zip, d.zip and 2 more.",
    ]
    assert data_lines(replace(splits, split=None)) == []


def test_train_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["alignmix-timm", "train", "--sched", "cosin", "--data", "a"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("alignmix-timm train: error: sched must be among")
    assert told.endswith("Did you mean 'cosine'?\n")
    monkeypatch.setattr(sys, "argv", ["alignmix-timm", "--help"])
    command.main()
    assert "alignmix-timm train --data DATA" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["alignmix-timm", "trian"])
    with pytest.raises(SystemExit):
        command.main()
    assert "Did you mean 'train'?" in capsys.readouterr().err
