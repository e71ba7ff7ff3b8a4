"""``alignmix-timm SCRIPT.py ... --mixup alignmix``, on a script of timm's parts; see also test_timm_versions.py."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import timm.data
import timm.loss
import torch
from batch_probe import Probe, check_batch
from launcher import ENVIRONMENT
from script_runs import SCRIPT, Launch

from alignmix_timm import AlignMix
from alignmix_timm.timm_train import main

OPTIONS: list[str] = [
    "",
    "--no-prefetcher",
    "--workers 2",
    "--bce-loss --smoothing 0",
    "--model-ema --channels-last",
    "--grad-accum-steps 2 --grad-checkpointing",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_losses_get_soft_mixed_targets_and_models_mixed_features(launch: Launch, options: str) -> None:
    done = launch("data", "--mixup", "alignmix", *options.split())
    assert done.status == 0, done.err
    smoothing = 0.0 if "--smoothing 0" in options else 0.1
    modes = [check_batch(batch, step, smoothing=smoothing) for step, batch in enumerate(done.probe.batches)]
    assert len(modes) == len(done.losses) == 8
    assert done.modes == {mode: modes.count(mode) for mode in set(modes)}
    assert len(set(modes)) >= 3


def test_autocast_mixes_in_half_precision(launch: Launch) -> None:
    done = launch("data", "--mixup", "alignmix", "--amp", "--alignmix-modes", "feat", "embed")
    assert done.status == 0, done.err
    for step, batch in enumerate(done.probe.batches):
        check_batch(batch, step, modes=("feat", "embed"), rtol=5e-2)


def test_options_reach_the_draws(launch: Launch) -> None:
    options = "--alignmix-alpha 0.5 --alignmix-modes feat,embed --alignmix-lam batch --mixup-prob 0.5"
    done = launch("data", "--mixup=alignmix", *options.split())
    drawing = dict(alpha=0.5, modes=("feat", "embed"), per_example=False, prob=0.5)
    modes = [check_batch(batch, step, **drawing) for step, batch in enumerate(done.probe.batches)]
    assert done.status == 0, done.err
    assert 0 < modes.count("none") < 8
    assert done.modes["none"] == modes.count("none")


def test_the_feature_module_can_be_named(launch: Launch) -> None:
    options = "--alignmix-modes feat --alignmix-feature-module layer2 --alignmix-align-size 4"
    done = launch("data", "--mixup", "alignmix", *options.split())
    assert done.status == 0, done.err
    assert "mixes features at layer2 (NCHW, 8 x 8), chosen by hand" in done.err
    assert all(torch.equal(batch.feats, batch.mixed_feats) for batch in done.probe.batches)  # at layer3


def test_start_says_what_is_patched_and_where_it_mixes(launch: Launch) -> None:
    told = launch("data", "--mixup", "alignmix").err
    assert max(map(len, told.splitlines())) <= 120
    _, start, end = told.split("alignmix-timm: ")
    for part in (f"timm {timm.__version__}: ", "FastCollateMixup", "layer3.0", "deepest map", "alpha=2.0"):
        assert part in start
    assert end.startswith("8 batches, 8 mixed (")


def test_mixing_ends_at_the_off_epoch_also_with_running_workers(launch: Launch) -> None:
    for options in ("--workers 1", "--no-prefetcher"):
        done = launch("data", "--mixup", "alignmix", "--mixup-off-epoch", 1, *options.split())
        assert done.status == 0, done.err
        assert done.modes["none"] == 4
        for step, batch in enumerate(done.probe.batches):
            check_batch(batch, step, prob=float(step < 4))


def test_a_run_that_was_not_to_mix_is_no_mistake(launch: Launch) -> None:
    assert launch("data", "--mixup", "alignmix", "--mixup-prob", 0).status == 0


@pytest.mark.parametrize("options", ["--cutmix 1", "--cutmix-minmax 0.3 0.8", "--cutmix 1 --no-prefetcher"])
def test_cutmix_takes_turns(launch: Launch, options: str) -> None:
    arguments = ["data", "--mixup", "alignmix", "--alignmix-modes", "feat", "--epochs", 4, *options.split()]
    done = launch(*arguments)
    assert done.status == 0, done.err
    assert 3 < done.modes["cutmix"] < 13
    cut = 0
    for step, batch in enumerate(done.probe.batches):
        if torch.equal(batch.feats, batch.mixed_feats):
            shares = batch.targets.sub(0.1 / 4).div(0.9)
            patches = torch.nn.functional.avg_pool2d(batch.images.mean(1), 4).flatten(1)
            assert torch.allclose(shares.sum(1), torch.ones(8), atol=1e-5)
            levels = (patches.amax(1) - patches.amin(1)).gt(0.5)  # more than noise: parts of two classes
            assert torch.equal(levels, shares.gt(0.01).sum(1).gt(1))
            cut += 1
        else:
            check_batch(batch, step, modes=("feat",))
    assert cut == done.modes["cutmix"]
    assert launch(*arguments, "--mixup-switch-prob", 0).modes == {"feat": 16}
    assert launch(*arguments, "--mixup-switch-prob", 1).modes == {"cutmix": 16}


def test_compile_gives_the_same_losses(launch: Launch) -> None:
    arguments = ["data", "--mixup", "alignmix", "--alignmix-modes", "feat", "--epochs", 1]
    plain, compiled = launch(*arguments), launch(*arguments, "--torchcompile", "eager", watch=False)
    assert compiled.status == 0, compiled.err
    assert compiled.losses == plain.losses


@pytest.mark.skipif("input_size_choices" not in timm.data.create_loader.__code__.co_varnames, reason="needs newer timm")
def test_image_sizes_may_change_between_batches(launch: Launch) -> None:
    done = launch("data", "--mixup", "alignmix", "--train-img-sizes", 64, 96, "--alignmix-modes", "feat", "input")
    assert done.status == 0, done.err
    assert {batch.images.shape[-1] for batch in done.probe.batches} == {64, 96}


@pytest.mark.parametrize("options", ["--mixup 0.2", "--mixup 0.2 --cutmix 1 --no-prefetcher", "", "--workers 1"])
def test_without_alignmix_nothing_changes(launch: Launch, options: str) -> None:
    plain = launch("data", *options.split(), "--output", "plain", launcher=False)
    launched = launch("data", *options.split(), "--output", "launched")
    assert launched.out == plain.out  # losses, weights and states of the generators, all digits
    assert "AlignMix is off" in launched.err
    first, second = (
        torch.load(launch.folder / name / "last.pth.tar", weights_only=False) for name in ("plain", "launched")
    )
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    saved = [(launch.folder / name / "args.yaml").read_text().replace(name, "") for name in ("plain", "launched")]
    assert saved[0] == saved[1]


def test_the_scripts_random_numbers_are_its_own(launch: Launch) -> None:
    unmixed = launch("data", launcher=False)
    mixed = launch("data", "--mixup", "alignmix", "--cutmix", 1)
    assert mixed.out.split("generators")[1].splitlines()[0] == unmixed.out.split("generators")[1].splitlines()[0]


def test_options_that_do_nothing_are_named(launch: Launch) -> None:
    done = launch("data", "--mixup", "0.2", "--alignmix-alpha", 1, "--epochs", 0)
    assert "no effect: --alignmix-alpha" in done.err


def test_args_yaml_can_be_used_again_and_fails_without_the_launcher(launch: Launch) -> None:
    first = launch("data", "--mixup", "alignmix", "--alignmix-modes", "feat", "--alignmix-alpha", 0.5)
    written = launch.folder / "output" / "args.yaml"
    again = launch("-c", written, "--output", "again")
    assert again.losses == first.losses
    assert again.modes == {"feat": 8}
    off = launch("-c", written, "--output", "off", "--mixup", "0.2")
    assert off.status == 0
    assert "no effect: --alignmix-alpha, --alignmix-modes" in off.err
    plain = launch("-c", written, launcher=False)
    assert plain.status == 2
    assert "invalid float value: 'alignmix'" in plain.err


def test_resumed_runs_go_on_with_the_draws_and_checkpoints_are_plain(launch: Launch) -> None:
    for options in ((), ("--no-prefetcher",)):
        launch("data", "--mixup", "alignmix", "--epochs", 1, *options)
        checkpoint = launch.folder / "output" / "last.pth.tar"
        done = launch("data", "--mixup", "alignmix", "--resume", checkpoint, *options)
        assert done.status == 0, done.err
        assert [check_batch(batch, 4 + step) for step, batch in enumerate(done.probe.batches)]
        assert len(done.probe.batches) == 4
        net = timm.create_model("test_resnet", num_classes=4, checkpoint_path=str(checkpoint))
        assert not any("alignmix" in name for name in net.state_dict())


def test_resuming_an_unmixed_run_says_where_draws_begin(launch: Launch) -> None:
    launch("data", "--epochs", 1)
    done = launch("data", "--mixup", "alignmix", "--resume", launch.folder / "output" / "last.pth.tar")
    assert done.status == 0
    assert "does not hold the number of its last batch" in " ".join(done.err.split())  # wherever the line broke


@pytest.mark.parametrize(
    "options",
    [
        "--naflex-loader",
        "--torchscript",
        "--jsd-loss",
        "--aug-splits 3",
        "--split-bn",
        "--mixup-mode pair",
        "--mixup-mode half",
        "--mixup-mode elem",
        "--kd-model-name test_resnet2",
    ],
)
def test_what_cannot_be_combined_is_refused(launch: Launch, options: str) -> None:
    done = launch("data", "--mixup", "alignmix", *options.split())
    assert done.status == 2
    assert f"cannot be combined with {options}" in done.err
    assert not done.probe.batches


def test_a_teacher_may_see_mixed_images(launch: Launch) -> None:
    done = launch("data", "--mixup", "alignmix", "--alignmix-modes", "input", "--kd-model-name", "test_resnet")
    assert done.status == 0, done.err
    assert done.modes == {"input": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--alignmix-alpha 0", "alpha must be > 0, got 0.0"),
        ("--alignmix-modes feats", "modes must be chosen from"),
        ("--alignmix-epsilon -1", "epsilon must be > 0, got -1.0"),
        ("--alignmix-align-size 0", "align_size must be >= 1, got 0"),
    ],
)
def test_options_outside_their_range_are_refused(launch: Launch, options: str, message: str) -> None:
    done = launch("data", "--mixup", "alignmix", *options.split())
    assert done.status == 2
    assert message in done.err


def test_a_place_that_does_not_exist_stops_the_run(launch: Launch) -> None:
    done = launch("data", "--mixup", "alignmix", "--alignmix-feature-module", "layer7")
    assert done.status == 1
    assert "'layer7'" in done.err


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        (
            "utils.init_distributed_device(args)",
            "torch.device('cpu'); args.rank, args.distributed = 0, False",
            "",
            "never called timm.utils.init_distributed_device",
        ),
        ("create_model(args.model,", "timm.models.model_entrypoint(args.model)(", "", "made no model with timm.create"),
        ("FastCollateMixup(**settings)", "None", "--bce-loss", "the optimizer steps, and no batch came through"),
        ("loss = criterion(", "net(images); loss = criterion(", "", "without fresh mixing parameters"),
        ("net.train()", "net.eval()", "--alignmix-modes feat", "the hook on 'layer3.0' did not run"),
        ("net.train()", "net.eval()", "--alignmix-modes embed", "the hook on 'fc' did not run"),
    ],
)
def test_a_script_that_would_train_without_alignmix_is_stopped_before_its_second_batch(
    launch: Launch, old: str, new: str, options: str, message: str
) -> None:
    done = launch.with_change(old, new, *options.split())
    assert done.status != 0
    assert message in done.err + str(done.status)
    assert len(done.losses) <= 1


def test_a_run_that_mixed_nothing_fails_at_its_end(launch: Launch) -> None:
    alone = launch("data", "--mixup", "alignmix", "--batch-size", 1, "--epochs", 1)
    assert alone.status == 1
    assert "32 batches, 0 mixed (none 32)" in alone.err
    untrained = launch("data", "--mixup", "alignmix", "--epochs", 0)
    assert untrained.status == 1
    assert "not one batch was trained" in untrained.err


@pytest.mark.parametrize(
    ("owner", "name"),
    [(timm.data, "FastCollateMixup"), (timm.utils, "init_distributed_device"), (timm, "create_model")],
)
def test_another_timm_is_named_with_what_it_lacks(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    monkeypatch.delattr(owner, name)
    done = launch("data", "--mixup", "alignmix")
    assert done.status == 2
    assert f"timm {timm.__version__} has no " in done.err
    assert f".{name}" in done.err


def test_timm_is_as_before_afterwards(launch: Launch) -> None:
    before = timm.create_model, timm.data.Mixup, timm.data.loader.PrefetchLoader.__iter__
    launch("data", "--mixup", "alignmix", "--epochs", 1)
    assert (timm.create_model, timm.data.Mixup, timm.data.loader.PrefetchLoader.__iter__) == before


def test_the_command_line_explains_itself(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    general, of_script = capsys.readouterr().out, launch("--help")
    assert of_script.status == 0
    for text in (general, of_script.out):
        for option in ("alpha", "modes", "lam", "epsilon", "feature-module", "align-size"):
            assert f"--alignmix-{option}" in text
    assert "or alignmix, manifold, mixup, cutmix" in of_script.out
    for arguments, message in (
        (["push"], "must be a script, SCRIPT.py, or train, evaluate, push or show"),
        (["no.py"], "no script 'no.py'"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


def test_data_workers_that_know_nothing_of_the_run_do_not_mix(launch: Launch) -> None:
    from alignmix_timm.timm_train.patches import AlignMixCollate, patched
    from alignmix_timm.timm_train.run import ScriptRun

    run = ScriptRun()
    run.request()
    with patched(run):
        packed = pickle.dumps(AlignMixCollate(num_classes=4))
    run.close()
    batch = [(torch.full((3, 2, 2), label, dtype=torch.uint8).numpy(), label) for label in range(4)]
    images, labels = pickle.loads(packed)(batch)
    assert labels.tolist() == [0, 1, 2, 3]
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_two_processes_mix_their_own_batches(launch: Launch) -> None:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["-m", "alignmix_timm.timm_train", str(SCRIPT), "data", "--mixup", "alignmix"]
    done = subprocess.run(line, cwd=launch.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    weights = dict(re.findall(r"rank (\d) weights (\S+)", done.stdout))
    assert len(weights) == 2
    assert weights["0"] == weights["1"]
    assert len(re.findall("alignmix-timm: 4 batches, 4 mixed", done.stderr)) == 1


def test_own_loops_mix_after_timms_loader_and_before_its_task(images: Path) -> None:
    task_module = pytest.importorskip("timm.task", reason="timm.task came with timm 1.0.23")
    dataset = timm.data.create_dataset("", root=images / "data", split="train")
    options = dict(batch_size=8, is_training=True, no_aug=True, num_workers=0, persistent_workers=False)
    loader = timm.data.create_loader(dataset, (3, 64, 64), device=torch.device("cpu"), **options)
    model = timm.create_model("test_resnet", num_classes=4)
    mixup_fn = AlignMix(model, num_classes=4, label_smoothing=0.1, seed=42)
    task = task_module.ClassificationTask(model, criterion=timm.loss.SoftTargetCrossEntropy(), verbose=False)
    with Probe() as probe:
        for x, y in loader:
            x, y = mixup_fn(x, y)
            task(x, y)["loss"].backward()
    for step, batch in enumerate(probe.batches):
        check_batch(batch, step)
    assert len(probe.batches) == 4


@pytest.mark.slow
def test_spawned_data_workers(launch: Launch) -> None:
    line = [sys.executable, "-m", "alignmix_timm.timm_train", str(SCRIPT), "data", "--mixup", "alignmix"]
    line += ["--workers", "2", "--start-method", "spawn"]
    done = subprocess.run(line, cwd=launch.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"loss (\S+)", done.stdout) == launch("data", "--mixup", "alignmix", "--workers", 2).losses
