"""The training engine: what it counts, measures, writes, and refuses."""

import json
import math
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from launcher import ROOT, launcher
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from training import command, finish, launch, reached, records, save_rows

from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.dataset import Key, Rows, collate
from alignmix_timm.training.data.splits import load_splits
from alignmix_timm.training.data.transforms import data_config, eval_transform
from alignmix_timm.training.evaluator import Evaluator
from alignmix_timm.training.journal import read_journal
from alignmix_timm.training.main import run
from alignmix_timm.training.mixing import build_mixer
from alignmix_timm.training.run import Run
from alignmix_timm.training.trainer import Trainer

SMALL: dict[str, Any] = dict(model="test_resnet", img_size=32, batch_size=32, epochs=1, workers=0, log_every=1, lr=0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_rows(tmp_path_factory.mktemp("data") / "rows", train=160, test=61))


@pytest.fixture(autouse=True)
def other_precision() -> None:
    """Let runs of one process differ in precision."""
    AcceleratorState._reset_state(reset_partial_state=True)


def config(data: str, output: Path, **options: Any) -> TrainConfig:
    return TrainConfig(**SMALL | dict(data=data, output=str(output)) | options)


def test_a_run_leaves_weights_for_plain_timm_and_what_made_them(data: str, tmp_path: Path) -> None:
    run(config(data, tmp_path, epochs=2, model_ema=True, model_ema_decay=0.5, keep_checkpoints=1))
    weights = str(tmp_path / "model" / "model.safetensors")
    net = timm.create_model("test_resnet", num_classes=10, checkpoint_path=weights).eval()
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    names = load_splits(config(data, tmp_path)).names
    assert described["label_names"] == names
    own = TrainConfig(data=data, **{**SMALL, "img_size": 32})
    rows = Rows(load_splits(own).test, "image", "label", eval_transform(data_config(net, own)), "RGB")
    batch = next(iter(DataLoader(rows, 61, sampler=[Key(0, row) for row in range(61)], collate_fn=collate)))
    with torch.no_grad():
        right = net(batch["pixel_values"]).argmax(1) == batch["labels"]
    evaluations = records(tmp_path, "eval")
    best = max(evaluations, key=lambda line: line["ema_top1"])  # the first, if several
    assert 100 * right.double().mean().item() == pytest.approx(best["ema_top1"])
    assert {line["rows"] for line in evaluations} == {line["ema_rows"] for line in evaluations} == {61}
    saved = json.loads((tmp_path / "model" / "provenance.json").read_text())["run"]
    assert (saved["step"], saved["best_by"], saved["updates"]) == (best["step"], "ema_top1", 10)
    assert saved["results"]["top1"] == best["ema_top1"]
    assert (tmp_path / "config.yaml").read_text() == (tmp_path / "last" / "config.yaml").read_text()
    assert json.loads((tmp_path / "versions.json").read_text())["timm"] == timm.__version__
    for picture in ("curves.png", "reliability.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    check_bins(tmp_path)


def check_bins(output: Path) -> None:
    """Each evaluation's bins of confidence hold every row once, and give its accuracy and calibration error."""
    evaluations, reliabilities = records(output, "eval"), records(output, "reliability")
    assert [line["step"] for line in reliabilities] == [line["step"] for line in evaluations] != []
    for line, bins in zip(evaluations, reliabilities, strict=True):
        for prefix in ("", "ema_") if "ema_top1" in line else ("",):
            examples, correct, confidence = (bins[prefix + key] for key in ("examples", "correct", "confidence"))
            assert sum(examples) == line[f"{prefix}rows"] == 61
            assert 100 * sum(correct) / 61 == pytest.approx(line[f"{prefix}top1"])
            gap = sum(abs(right - sure) for right, sure in zip(correct, confidence, strict=True))
            assert 100 * gap / 61 == pytest.approx(line[f"{prefix}ece"], abs=1e-3)


DIVERGING: dict[str, Any] = dict(epochs=3, sched="multistep", decay_milestones=[2], decay_rate=40.0, keep_checkpoints=1)


def exported(folder: Path) -> tuple[int, dict[str, torch.Tensor]]:
    """The step and the weights in ``model/``."""
    saved = json.loads((folder / "model" / "provenance.json").read_text())["run"]
    return saved["step"], load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("average", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_model_of_a_run_is_its_best_also_after_a_kill(
    data: str, tmp_path: Path, average: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last epoch spoils the weights; then the run is killed at each place between it and its end."""
    options: dict[str, Any] = DIVERGING | dict(model_ema=average, model_ema_decay=0.5, mixers=["none"])
    result = run(config(data, tmp_path, **options))
    metric = "ema_top1" if average else "top1"
    best = max(records(tmp_path, "eval"), key=lambda line: line[metric])
    assert best["step"] < 15
    assert result[metric] < best[metric]
    step, weights = exported(tmp_path)
    assert step == best["step"]
    checkpoint = tmp_path / "checkpoints" / f"step-{step:08d}"
    kept = torch.load(checkpoint / "ema.pt") if average else load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in weights.items())
    ema = "EMA " if average else ""
    said = f"Done: best {ema}top-1 {best[metric]:.2f} % at step {step}/15, 10 classes; weights: {tmp_path / 'model'}"
    assert capsys.readouterr().out.splitlines()[-1] == f"{said}, curves: {tmp_path / 'curves.png'}"

    shutil.rmtree(tmp_path / "model")  # killed after the last checkpoint
    (tmp_path / "best").unlink()  # or between a checkpoint and the link to it
    (tmp_path / "best").symlink_to("checkpoints/step-00000015")
    for _ in range(2):  # the second time there is nothing left to do
        assert run(config(data, tmp_path, resume="auto", **options)) == pytest.approx(result)
        assert (tmp_path / "best").resolve() == checkpoint
        again, same = exported(tmp_path)
        assert again == step
        assert all(torch.equal(value, same[name]) for name, value in weights.items())
        assert said in capsys.readouterr().out


def test_a_run_that_goes_on_after_its_end_replaces_its_model_by_a_better_one(data: str, tmp_path: Path) -> None:
    run(config(data, tmp_path, mixers=["none"], sched="none"))
    run(config(data, tmp_path, mixers=["none"], sched="none", epochs=4, resume="auto"))
    best = max(records(tmp_path, "eval"), key=lambda line: line["top1"])
    assert exported(tmp_path)[0] == best["step"] > 5


def test_a_run_says_once_where_it_mixes_and_nothing_if_it_does_not(
    data: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(config(data, tmp_path / "mixed", model_ema=True, model_ema_decay=0.5))
    told = "".join(capfd.readouterr())
    assert told.count("AlignMix mixes") == told.count("passed over") == 1
    lines = told.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 120
    assert re.search(r"^step 5/5, epoch 1.00: loss .* img/s, in 0:\d\d, 0:00 left$", told, re.MULTILINE)
    assert re.search(
        r"^epoch 1/1 \(0:\d\d\): train loss [\d.]+; EMA top-1 [\d.]+ %, .*; best so far$", told, re.MULTILINE
    )
    mean = sum(line["loss"] for line in records(tmp_path / "mixed", "train")) / 5
    assert f"train loss {mean:.2f};" in told
    run(config(data, tmp_path / "none", mixers=["none"]))
    assert "AlignMix mixes" not in "".join(capfd.readouterr())
    never: list[dict[str, Any]] = [
        {"mixers": ["cutmix"]},
        {"mix_prob": 0.0},
        {"mix_off_epoch": 0},
        {"modes": ["input"]},
    ]
    assert not any(build_mixer(config(data, tmp_path, **options)).mixes_inside for options in never)


def test_metrics_tell_what_was_mixed(data: str, tmp_path: Path) -> None:
    run(config(data, tmp_path, epochs=4, log_every=20, mixers=["alignmix", "cutmix", "none"], mix_off_epoch=3))
    lines = records(tmp_path, "train")
    shares = {name: value for line in lines[:3] for name, value in line.items() if name.startswith("share_")}
    assert {"share_cutmix", "share_none"} < set(shares)
    for line in lines:
        parts = [name.removeprefix("share_") for name in line if name.startswith("share_")]
        assert sum(line[f"share_{part}"] for part in parts) == pytest.approx(100)
        assert sum(line[f"share_{part}"] / 100 * line[f"loss_{part}"] for part in parts) == pytest.approx(
            line["loss"], rel=1e-5
        )
        assert 0 <= line["mixed_acc"] <= 100
    assert lines[-1]["share_none"] == 100
    assert len(records(tmp_path, "effect")) == 2


def test_learning_rates_and_steps_do_not_depend_on_processes_or_accumulation(data: str, tmp_path: Path) -> None:
    options: dict[str, Any] = dict(batch_size=64, epochs=3, lr_base=0.2)
    run(config(data, tmp_path / "one", lr=None, **options))
    run(config(data, tmp_path / "accumulated", lr=None, micro_batch_size=32, **options))
    line = command(Path(data), tmp_path / "two", 2, mixers="alignmix", workers=0, checkpoint_every=9, **options)
    finish(line)
    curves = [
        [(line["step"], line["lr"]) for line in records(tmp_path / name, "train")]
        for name in ("one", "accumulated", "two")
    ]
    assert curves[0] == curves[1] == curves[2]
    assert len(curves[0]) == 3 * (160 // 64)
    assert max(rate for _, rate in curves[0]) == 0.2 * 64 / 256
    check_bins(tmp_path / "two")
    again = config(data, tmp_path / "alone", lr=None, model_ema=True, eval_only=str(tmp_path / "two"), **options)
    alone = Evaluator(Run(again))
    measured, bins = alone.all(), records(tmp_path / "two", "reliability")[-1]
    assert records(tmp_path / "two", "eval")[-1] == pytest.approx({**measured, "kind": "eval", "step": 6, "epoch": 3.0})
    assert all(bins[name] == pytest.approx(value, abs=1e-4) for name, value in alone.bins.items())
    assert alone.bins.keys() == bins.keys() - {"kind", "step"}


def test_accumulated_gradients_are_those_of_the_whole_step(data: str, tmp_path: Path) -> None:
    """With batch norm off, micro-batches of an unmixed step give the weights of one batch."""
    options: dict[str, Any] = dict(model="test_convnext", mixers=["none"], scale=[1.0, 1.0], hflip=0.0, opt="momentum")
    weights = []
    for micro in (32, 8):
        run(config(data, tmp_path / str(micro), micro_batch_size=micro, **options))
        weights.append(load_file(tmp_path / str(micro) / "last" / "model.safetensors"))
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-5), name


def test_two_rates_of_learning(data: str, tmp_path: Path) -> None:
    run(config(data, tmp_path, body_lr_scale=0.1, opt="momentum", sched="multistep", decay_milestones=[1], epochs=2))
    state = torch.load(tmp_path / "last" / "optimizer.bin", weights_only=True)
    assert {round(group["lr"], 9) for group in state["param_groups"]} == {0.005, 0.0005}


@pytest.mark.parametrize(
    "options",
    [
        dict(channels_last=True, grad_checkpointing=True, clip_grad=1.0, smoothing=0.1),
        dict(mixed_precision="bf16", loss="bce", bce_target_thresh=0.2, opt="lamb", mixers=["alignmix", "mixup"]),
        dict(img_size=None, input_size=[1, 32, 48], assignment="none", drop=0.1, sched="none", modes=["feat"]),
        dict(streaming=True, train_samples=160, workers=2, shuffle_buffer=50),
        dict(
            method="alignmix_vae",
            modes=["embed"],
            embedding="tensor",
            align_embedding=True,
            embed_dim=16,
            model="preact_resnet18",
            model_args={"width": 4},
            decoder_width=4,
            mixed_precision="bf16",
            micro_batch_size=8,
            model_ema=True,
            clip_grad=1.0,
            clip_mode="agc",
            body_lr_scale=0.5,
        ),
    ],
    ids=["memory", "precision", "grey", "streaming", "autoencoder"],
)
def test_options_train_and_are_read_back(data: str, tmp_path: Path, options: dict[str, Any]) -> None:
    result = run(config(data, tmp_path, **options))
    again = run(
        TrainConfig(**SMALL | dict(data=data, output=str(tmp_path), eval_only=str(tmp_path / "last")) | options)
    )
    assert again == pytest.approx(result, rel=1e-6)
    assert all(math.isfinite(line["loss"]) for line in records(tmp_path, "train"))


@pytest.mark.slow
def test_a_compiled_run_equals_the_plain_run(data: str, tmp_path: Path) -> None:
    torch.compiler.reset()
    for name, compiled in (("plain", False), ("compiled", True)):
        with torch.compiler.set_stance("default" if compiled else "force_eager"):
            run(config(data, tmp_path / name, compile=compiled, modes=["input", "embed"]))
    plain, compiled = (records(tmp_path / name, "train") for name in ("plain", "compiled"))
    for left, right in zip(plain, compiled, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-3)


def test_no_mixing_is_plain_training(data: str, tmp_path: Path) -> None:
    """A loop of timm's parts over the same batches gives the same weights."""
    own = config(data, tmp_path, mix_prob=0.0, opt="momentum", weight_decay=0.0)
    prepared = Run(own)
    net = timm.create_model("test_resnet", num_classes=10).train()
    net.load_state_dict(prepared.net.state_dict())
    optimizer = timm.optim.create_optimizer_v2(net, "momentum", lr=0.05, momentum=0.9)
    schedule, _ = timm.scheduler.create_scheduler_v2(optimizer, "cosine", 1, step_on_epochs=False, updates_per_epoch=5)
    for step, batch in enumerate(prepared.loaders.train(0, 5)):
        schedule.step_update(step)
        torch.nn.functional.cross_entropy(net(batch["pixel_values"]), batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    run(own)
    trained = load_file(tmp_path / "last" / "model.safetensors")
    for name, value in net.state_dict().items():
        assert torch.allclose(trained[name], value, atol=1e-6), name


def test_weights_that_are_no_numbers_stop_the_run_and_keep_the_last_checkpoint(data: str, tmp_path: Path) -> None:
    options: dict[str, Any] = dict(epochs=2, checkpoint_every=1, sched="multistep", weight_decay=10.0)
    options["decay_milestones"] = [1]
    with pytest.raises(FloatingPointError, match=r"is not finite after step 5. Lower --lr.*step-00000004"):
        run(config(data, tmp_path, decay_rate=6e39, keep_checkpoints=1, **options))
    assert all(value.isfinite().all() for value in load_file(tmp_path / "last" / "model.safetensors").values())
    assert run(config(data, tmp_path / "sane", resume=str(tmp_path), decay_rate=0.1, **options))["rows"] == 61


@pytest.mark.parametrize("spoilt", ["weight", "running_var"])
def test_ema_weights_that_are_no_numbers_stop_the_run(data: str, tmp_path: Path, spoilt: str) -> None:
    trained = Run(config(data, tmp_path, model_ema=True, model_ema_decay=0.5))
    name = next(name for name in trained.ema.module.state_dict() if name.endswith(spoilt))
    trained.ema.module.state_dict()[name].view(-1)[0] = math.nan
    with pytest.raises(FloatingPointError, match="an EMA weight is not finite after step 1"):
        Trainer(trained).fit()
    assert not (tmp_path / "checkpoints").exists()


def test_an_evaluation_that_is_no_number_is_not_saved(data: str, tmp_path: Path) -> None:
    """Weights and training losses are finite, and the statistics of batch norm overflow in the evaluation."""
    trained = Run(config(data, tmp_path))
    next(value for name, value in trained.net.named_buffers() if name.endswith("running_mean")).fill_(-3e38)
    with pytest.raises(FloatingPointError, match=r"loss of the evaluation.* is not finite after step 5"):
        Trainer(trained).fit()
    assert not (tmp_path / "checkpoints").exists()


def test_a_finished_run_and_another_run_are_noticed(data: str, tmp_path: Path) -> None:
    result = run(config(data, tmp_path))
    assert run(config(data, tmp_path, resume="auto")) == result
    with pytest.raises(ValueError, match="holds a run already"):
        run(config(data, tmp_path))
    with pytest.raises(ValueError, match="can only be resumed as it was begun"):
        run(config(data, tmp_path, resume="auto", batch_size=16))
    with pytest.raises(ValueError, match=r"must go on with the options .*weight_decay 0.0001, got 0.5"):
        run(config(data, tmp_path, resume="auto", weight_decay=0.5))


def test_a_run_killed_at_its_very_end_still_exports(data: str, tmp_path: Path) -> None:
    result = run(config(data, tmp_path))
    shutil.rmtree(tmp_path / "model")
    assert run(config(data, tmp_path, resume="auto")) == result
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_going_back_needs_another_folder(data: str, tmp_path: Path) -> None:
    run(config(data, tmp_path / "run", checkpoint_every=2))
    earlier = tmp_path / "run" / "checkpoints" / "step-00000004"
    with pytest.raises(ValueError, match=r"holds a run up to step-00000005: .*pass another --output"):
        run(config(data, tmp_path / "run", resume=str(earlier)))
    run(config(data, tmp_path / "other", resume=str(earlier)))
    assert [line["step"] for line in records(tmp_path / "other", "train")] == [5]
    assert records(tmp_path / "other", "eval") == records(tmp_path / "run", "eval")


def test_learning_rates_without_a_schedule(data: str, tmp_path: Path) -> None:
    run(config(data, tmp_path, body_lr_scale=0.1, sched="none"))
    state = torch.load(tmp_path / "last" / "optimizer.bin", weights_only=True)
    assert {round(group["lr"], 9) for group in state["param_groups"]} == {0.05, 0.005}


def test_an_error_in_another_process_is_told(data: str, tmp_path: Path) -> None:
    rows = load_splits(config(data, tmp_path)).train.to_list()
    rows[5]["image"]["bytes"] = b"no image"
    features = datasets.Features(image=datasets.Image(decode=False), label=datasets.Value("int64"))
    broken = datasets.Dataset.from_list(rows, features=features)
    (tmp_path / "rows").mkdir()
    for split in ("train", "test"):
        broken.to_parquet(tmp_path / "rows" / f"{split}.parquet")
    line = command(tmp_path / "rows", tmp_path / "run", 2, image_column="image", label_column="label")
    output = finish(line, code=1)
    assert re.search(r"^error( in process 1)?: .*image of row 5 cannot be read", output, re.MULTILINE), output[-3000:]
    report = output[output.index("Root Cause") :].strip().splitlines()
    assert re.search(r"traceback : error( in process 1)?: .*image of row 5 cannot be read", report[-2]), report
    assert not re.search(r"\[rank\d\]", output)  # as torch begins the lines of a traceback: there is nothing to trace


def test_the_end_of_a_launcher_saves_and_ends_the_run(data: str, tmp_path: Path) -> None:
    line = command(Path(data), tmp_path, epochs=500, checkpoint_every=10_000, eval_every=500)
    process = launch([*launcher(1), *line[1:]])
    ready = reached(tmp_path, 2)
    while not ready():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    output, _ = process.communicate(timeout=60)  # the pipe closes when the run itself has ended
    assert "Stopped by signal 15 after step" in output
    assert (tmp_path / "last" / "progress.json").exists()


def test_errors_of_set_up_are_one_line(data: str, tmp_path: Path) -> None:
    line = command(Path(data), tmp_path, model="resnet-18")
    output = finish(line, code=1)
    assert re.search(r"^error: model 'resnet-18' cannot be built: ", output, re.MULTILINE)
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("number", "processes"),
    [(signal.SIGINT, 1), (signal.SIGTERM, 2), pytest.param(signal.SIGUSR1, 1, marks=pytest.mark.slow)],
)
def test_a_signal_saves_and_ends_the_run(data: str, tmp_path: Path, number: int, processes: int) -> None:
    line = command(Path(data), tmp_path, processes, epochs=500, checkpoint_every=10_000, eval_every=500)
    process = launch(line)
    ready = reached(tmp_path, 2)
    while not ready():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number) if processes == 1 else process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (128 + number if processes == 1 else 1), output[-2000:]
    assert f"Stopped by signal {int(number)} after step" in output
    saved = json.loads((tmp_path / "last" / "progress.json").read_text())["step"]
    assert saved == read_journal(tmp_path / "metrics.jsonl")[-1]["step"] >= 2


def test_a_full_disk_is_one_sentence(data: str, tmp_path: Path) -> None:
    """A limit on the size of files, as a full disk: weights fit, the optimizer's state does not."""
    line = [
        "bash",
        "-c",
        'ulimit -f 1000; exec "$@"',
        "--",
        *command(Path(data), tmp_path, epochs=1, checkpoint_every=2),
    ]
    output = finish(line, code=1)
    assert re.search(r"^error: the checkpoint of step 2 could not be written", output, re.MULTILINE), output[-2000:]
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "test_efficientnet", "test_mambaout", "test_resnet"])
def test_dry_runs(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = [3, 64, 96] if model == "test_vit" else None
    run(
        TrainConfig(dry_run=True, model=model, input_size=size, output=str(tmp_path / "run"), model_ema=True, workers=0)
    )
    printed = capsys.readouterr().out
    assert f"Dry run of {model}: two optimizer steps, evaluation, checkpoint and weights for timm work." in printed
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in printed  # nobody is sent to a folder that is gone


@pytest.mark.slow
def test_dry_run_on_two_processes(tmp_path: Path) -> None:
    line = [*launcher(2), str(ROOT / "recipes" / "train.py"), "--dry-run", "--model", "test_resnet"]
    output = finish([*line, "--micro-batch-size", "64", "--output", str(tmp_path / "run")])
    assert "two optimizer steps, evaluation, checkpoint and weights for timm work" in output


CONFIGS = sorted((Path(__file__).parents[1] / "recipes" / "configs").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_dry_run_of_every_config(path: Path, tmp_path: Path) -> None:
    recipe = "train_imagenet.py" if path.stem == "imagenet_resnet50_300" else "train.py"
    line = [*command(tmp_path, tmp_path / "run")[:1], str(path.parents[1] / recipe)]
    output = finish([*line, "--config", str(path), "--dry-run", "--output", str(tmp_path / "run")])
    assert "two optimizer steps, evaluation, checkpoint and weights for timm work" in output


def test_evaluation_counts_each_row_once_and_leaves_training_as_it_was(data: str, tmp_path: Path) -> None:
    trained = Run(config(data, tmp_path, batch_size=16))
    evaluator = Evaluator(trained)
    result = evaluator.all()
    assert result["rows"] == 61
    assert trained.model.training
    assert result == evaluator.all()


def test_trackers_get_the_metrics_once_also_after_a_kill(data: str, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options: dict[str, Any] = dict(trackers=["tensorboard"], checkpoint_every=3)
    run(config(data, tmp_path, **options))
    for lost in ("step-00000005", "step-00000003"):  # as if killed before them
        tracked: dict[str, list[tuple[int, float]]] = {"train/loss": [], "eval/top1": [], "effect/alignment_effect": []}
        for file in tmp_path.glob("alignmix/events*"):
            read = events.EventAccumulator(str(file))
            read.Reload()
            for name in set(read.Tags()["scalars"]) & set(tracked):
                tracked[name] += [(point.step, round(point.value, 5)) for point in read.Scalars(name)]
        for name, points in tracked.items():
            kind, metric = name.split("/")
            assert sorted(points) == [(line["step"], round(line[metric], 5)) for line in records(tmp_path, kind)]
        assert [line["step"] for line in records(tmp_path, "effect")] == [0, 5]
        shutil.rmtree(tmp_path / "checkpoints" / lost)
        run(config(data, tmp_path, resume="auto", **options))


def test_a_tracker_that_is_not_installed_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trackers must be installed, \['clearml'\] are not"):
        run(config(data, tmp_path, trackers=["clearml"]))
