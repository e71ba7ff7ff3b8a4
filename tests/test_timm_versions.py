"""Unmodified train.py of several versions of timm, under the launcher.

ALIGNMIX_TIMM_TRAIN=folder pytest -m slow tests/test_timm_versions.py    # folder/v1.0.28/train.py and others
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from batch_probe import check_batch, write_images
from launcher import ENVIRONMENT
from script_runs import Done, Launch

SCRIPTS = sorted(Path(os.environ.get("ALIGNMIX_TIMM_TRAIN", "nowhere")).glob("*/train.py"))
# Older train.py moves batches to CUDA without the prefetcher, and averages losses there in several processes.
ON_CPU = [script for script in SCRIPTS if re.search(r"train_one_epoch\([^)]*device=device", script.read_text())]
BASE = "data --num-classes 4 --batch-size 8 --workers 1 --device cpu --no-aug --output out"
COLOURS = "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225"  # those of the probe
SMALL = f"{BASE} --model test_resnet --img-size 64 --epochs 2 {COLOURS}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPTS, reason="ALIGNMIX_TIMM_TRAIN does not name a folder with VERSION/train.py"),
]

EXACT = [
    "",
    "--no-prefetcher",
    "--model-ema",
    "--grad-accum-steps 2",
    "--grad-checkpointing",
    "--channels-last",
    "--smoothing 0",
    "--bce-loss --bce-target-thresh 0.2",
    "--mixup-prob 0.5",
    "--mixup-off-epoch 1",
    "--mixup-off-epoch 1 --no-prefetcher",
    "--alignmix-lam batch --alignmix-alpha 0.5 --alignmix-modes feat embed",
]
OTHERS = [
    "--amp --amp-dtype bfloat16 --channels-last",
    "--torchcompile eager",
    "--cutmix 1.0",
    "--cutmix 1.0 --mixup-switch-prob 0.2 --no-prefetcher",
]


@pytest.fixture
def launch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Launch:
    write_images(tmp_path / "data", 8)
    write_images(tmp_path / "data", 2, split="validation")
    return Launch(tmp_path, capsys)


def losses(printed: str) -> list[float]:
    """Training losses of the epochs in train.py's results."""
    return [epoch["train"]["loss"] for epoch in json.loads(printed.split("--result")[1])]


def run(launch: Launch, script: Path, options: str, mixup: str = "--mixup alignmix", launcher: bool = True) -> Done:
    watch = "--torchcompile" not in options
    done = launch(*f"{SMALL} {mixup} {options}".split(), script=script, launcher=launcher, watch=watch)
    assert done.status == 0, done.err
    return done


@pytest.mark.parametrize("options", EXACT)
def test_versions_train_alike_on_mixed_features_and_targets(launch: Launch, options: str) -> None:
    drawing: dict[str, object] = {"smoothing": 0.0} if "--smoothing 0" in options else {}
    if "batch" in options:
        drawing.update(per_example=False, alpha=0.5, modes=("feat", "embed"))
    found = []
    for script in ON_CPU if "--no-prefetcher" in options else SCRIPTS:
        done = run(launch, script, options)
        for step, batch in enumerate(done.probe.batches):
            prob = 0.5 if "prob" in options else float("--mixup-off" not in options or step < 4)
            check_batch(batch, step, prob=prob, **drawing)
        assert len(done.probe.batches) == 8
        found.append(losses(done.out))
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("options", OTHERS)
def test_versions_train_alike(launch: Launch, options: str) -> None:
    scripts = ON_CPU if "--no-prefetcher" in options else SCRIPTS
    found = [losses(run(launch, script, options).out) for script in scripts]
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("mixup", ["--mixup 0.2", "--mixup 0.2 --cutmix 1 --no-prefetcher", "", "--no-prefetcher"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_without_alignmix_nothing_changes(launch: Launch, script: Path, mixup: str) -> None:
    if "--no-prefetcher" in mixup and script not in ON_CPU:
        pytest.skip("this train.py needs a GPU for that")
    plain = run(launch, script, "--experiment plain", mixup, launcher=False)
    launched = run(launch, script, "--experiment launched", mixup)
    assert losses(launched.out) == losses(plain.out)
    first, second = (
        torch.load(launch.folder / "out" / name / "last.pth.tar", weights_only=False) for name in ("plain", "launched")
    )
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_resume_args_yaml_and_checkpoints(launch: Launch, script: Path) -> None:
    first = run(launch, script, "--experiment first --epochs 1 --sched step")
    folder = launch.folder / "out" / "first"
    resumed = run(launch, script, f"--experiment second --sched step --resume {folder / 'last.pth.tar'}")
    assert len(resumed.probe.batches) == 4
    for step, batch in enumerate(resumed.probe.batches):
        check_batch(batch, 4 + step)
    again = launch("-c", folder / "args.yaml", "--experiment", "again", script=script)
    assert losses(again.out) == losses(first.out)
    plain = launch("-c", folder / "args.yaml", script=script, launcher=False)
    assert plain.status == 2
    assert "invalid float value: 'alignmix'" in plain.err
    net = timm.create_model("test_resnet", num_classes=4, checkpoint_path=str(folder / "last.pth.tar"))
    assert not net.layer3[0]._forward_hooks


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_datasets_of_hugging_face(launch: Launch, script: Path) -> None:
    done = run(launch, script, f"--dataset hfds/{launch.folder / 'data'}")
    assert sum(done.modes.values()) == 8


@pytest.mark.parametrize("script", ON_CPU, ids=lambda script: script.parent.name)
def test_two_processes(launch: Launch, script: Path) -> None:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += [str(Path(__file__).parent / "unpinned_ddp.py"), str(script), *SMALL.split(), "--mixup", "alignmix"]
    done = subprocess.run(line, cwd=launch.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("alignmix-timm: 4 batches, 4 mixed", done.stderr)) == 1
    assert len(losses(done.stdout)) == 2


@pytest.mark.parametrize(
    "model", ["test_vit", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224", "resnet18"]
)
def test_families_need_no_option(launch: Launch, model: str) -> None:
    done = launch(*f"{BASE} --model {model} --epochs 1 --mixup alignmix".split(), script=SCRIPTS[-1])
    assert done.status == 0, done.err
    assert sum(done.modes.values()) == 4
    assert done.modes.get("none", 0) == 0
