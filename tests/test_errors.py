"""Mistakes that are told in one sentence: names that timm does not know, and the command lines of the recipes."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher import ENVIRONMENT, ROOT, free_port, launcher
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from alignmix_timm.training.build import build_model, check_names
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.errors import told_in_a_sentence
from alignmix_timm.training.signals import StopSignal

RECIPES = ROOT / "recipes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnt18"}, r"model 'resnt18' cannot be built: .* Did you mean 'resnet18'\?"),
        ({"model": "resnet18.in12k"}, r"model 'resnet18.in12k' cannot be built: Invalid pretrained tag"),
        ({"aa": "nonsense"}, "aa must be one of timm's augmentations, .* got 'nonsense'"),
        ({"aa": "rand-m9-mstd"}, "'mstd' has no number"),
        ({"aa": "rand-q9"}, "aa must be .* got 'rand-q9'"),
        ({"aa": "augmix-mx3"}, "aa must be .* got 'augmix-mx3'"),
        ({"aa": "rand-m9.5"}, "aa must be .* got 'rand-m9.5'"),
        ({"aa": "bogus"}, "aa must be .* got 'bogus'"),
        ({"aa": "rand-n40-tweights"}, "aa must be .* got 'rand-n40-tweights': Cannot take a larger sample"),
        ({"aa": "augmix-w0-d0", "in_chans": 1, "interpolation": "cubic"}, "interpolation must be among .* got 'cubic'"),
        ({"interpolation": ""}, "interpolation must be among .* got ''"),
        ({"interpolation": "random"}, "interpolation must be among nearest, bilinear, .* got 'random'"),
        ({"opt": "sgdd"}, "opt 'sgdd' .* cannot be built"),
        ({"opt": "adamw", "opt_args": {"betas": 3}}, "opt 'adamw' with opt_args {'betas': 3} cannot be built"),
        ({"opt_args": {"lr": 1}}, "cannot be built: .*multiple values"),
    ],
)
def test_names_unknown_to_timm(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_names(TrainConfig(**{"model": "test_resnet"} | options))


@pytest.mark.parametrize(
    "aa", ["rand-m7-mstd0.5-inc1", "rand-m9-n3-p0.4-tweights", "augmix-m5-w4-d2", "3a", "original-mstd0.5", "v0r"]
)
def test_names_that_timm_knows(aa: str) -> None:
    check_names(TrainConfig(model="resnet18.a1_in1k", aa=aa, interpolation="bicubic", layer_decay=0.5, opt="lion"))


@pytest.mark.parametrize("name", ["none.pt", "no/folder", "~/none.safetensors"])
def test_an_initial_checkpoint_that_does_not_exist(name: str) -> None:
    with pytest.raises(ValueError, match=f"initial_checkpoint must be .* got '{name}', which does not exist"):
        build_model(TrainConfig(model="test_resnet", initial_checkpoint=name), 10)


class Dying(Dataset):
    """Its data worker ends as it is told to."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.end = end

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> None:
        self.end()


@pytest.mark.parametrize(
    "end",
    [
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        lambda: os.kill(os.getpid(), signal.SIGTERM),
        lambda: os._exit(3),
    ],
)
def test_a_data_worker_that_died_is_told(end: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, told_in_a_sentence():
        next(iter(DataLoader(Dying(end), num_workers=1)))
    assert stopped.value.code == 1
    how = r"(is killed by signal: (Killed|Terminated)|exited unexpectedly)"  # torch sees one or the other
    told = rf"error: a data worker died: DataLoader worker \(.*\) {how}.*\. .*try fewer --workers\. .*\n"
    assert re.fullmatch(told, capsys.readouterr().err)


COLLECTIVES = {
    "all_reduce": "dist.all_reduce(torch.ones(2))",
    "broadcast": "dist.broadcast(torch.ones(2), 1)",
    "barrier": "dist.barrier()",
    "gather_object": "dist.gather_object(1, [None, None])",
    "ddp": "DistributedDataParallel(torch.nn.Linear(2, 2))(torch.ones(1, 2)).sum().backward()",
}
PEERS = """
import os, signal, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from alignmix_timm.training import errors
errors._TO_BE_ENDED = 0.1
with errors.told_in_a_sentence():
    dist.init_process_group("gloo")
    dist.barrier()
    if dist.get_rank():
        {ending}
    {collective}
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(3)"])
@pytest.mark.parametrize("collective", COLLECTIVES)
def test_a_process_that_lost_another_tells_it_without_a_traceback(collective: str, ending: str) -> None:
    line = [sys.executable, "-c", PEERS.format(ending=ending, collective=COLLECTIVES[collective])]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(line, env=ENVIRONMENT | address | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    told, of_other = (process.communicate(timeout=60)[1] for process in processes)
    assert (processes[0].returncode, of_other) == (1, "")
    assert re.fullmatch(r"error: another process of the run ended: .*\.\n", told), told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of two classes each in ``good`` and in ``broken``, where one is no image."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("good/a", "good/b", "broken/a", "broken/b"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (40, 40)).save(folder / name / f"{number}.png")
    (folder / "broken" / "a" / "0.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("script", ["quickstart.py", "train_with_trainer.py"])
@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("--bacth-size 4", 2, "unknown option '--bacth-size'. Did you mean '--batch-size'?"),
        ("--batch-size many", 2, "error: --batch-size: invalid int value: 'many'."),
        ("--batch-size 0", 1, "error: batch_size must be >= 1, got 0."),
        ("--image-size -4", 1, "error: image_size must be >= 1, got -4."),
        (
            "--model resnt18",
            1,
            "error: model 'resnt18' cannot be built: timm has none of this name. Did you mean 'resn",
        ),
        ("--data no/such/folder", 1, "error: cannot load split 'train' of 'no/such/folder': "),
        ("--label-column class", 1, "error: label_column must be one of the columns ['image', 'label'], got class."),
        ("--image-column label", 1, "error: image_column and label_column must be two columns"),
        ("--data {folder}/broken --batch-size 4", 1, "cannot be read: cannot identify image file"),
        (
            "--data {folder}/good --batch-size 64",
            1,
            "error: batch_size must be >= 2, to mix, and at most the training ",
        ),
        ("--data {folder}/good --batch-size 1", 1, "error: batch_size must be >= 2, to mix"),
        ("{out} /dev/null/run", 1, "must be a folder that can be written, got '/dev/null/run'"),
    ],
)
def test_recipes_tell_errors_in_a_sentence(
    script: str,
    line: str,
    status: int,
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = "--out" if script == "quickstart.py" else "--output"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(RECIPES)
    monkeypatch.setattr(sys, "argv", [script, *line.format(folder=folder, out=out).split()])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(RECIPES / script), run_name="__main__")
    assert stopped.value.code == status
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_ctrl_c_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background does not inherit
    try:
        with pytest.raises(SystemExit) as stopped, told_in_a_sentence():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "Stopped by Ctrl-C.\n"


def test_one_ctrl_c_that_comes_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the terminal, and from a launcher that passes it on; the second of two strokes stops at once."""
    stop = StopSignal()
    try:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            assert stop.agreed() == signal.SIGINT
        monkeypatch.setattr("alignmix_timm.training.signals._ONE_KEYSTROKE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        stop.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_of_schedulers_and_terminals_stop_after_a_step(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        stop = StopSignal()
        signal.raise_signal(number)
        assert stop.agreed() == number
        stop.close()
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopSignal()
        signal.raise_signal(signal.SIGHUP)
        assert stop.agreed() == 0
        stop.close()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "ready", "sentence"),
    [
        ("quickstart.py", (), "img/s", "Stopped by Ctrl-C."),
        (
            "train.py",
            ("--data", RECIPES / "data" / "fashion_mnist", "--log-every", 1),
            "update 2/",
            "Stopped by signal 2",
        ),
    ],
)
def test_the_sentence_comes_after_the_traceback_of_the_launcher(
    script: str, options: tuple, ready: str, sentence: str, tmp_path: Path
) -> None:
    line = [*launcher(1), str(RECIPES / script), "--model", "test_resnet", *map(str, options)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            line, cwd=tmp_path, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    printed = (tmp_path / "log").read_text
    while ready not in printed():
        assert process.poll() is None, printed()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    deadline = time.monotonic() + 20
    while sentence not in printed() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert printed().strip().splitlines()[-1].startswith(sentence), printed()[-2000:]
    assert printed().index("KeyboardInterrupt") < printed().index(sentence)
