"""Options: layers, types, and what is refused."""

import contextlib
import re
import typing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import pytest

from alignmix_timm.training.checkpoint import PROGRESS
from alignmix_timm.training.config import GROUPS, TrainConfig, parse_config, read_yaml
from alignmix_timm.training.mixing import build_mixer
from alignmix_timm.training.option_changes import changes, check_changes
from alignmix_timm.training.option_ranges import _INTERVALS
from alignmix_timm.training.options import Role, names_of
from alignmix_timm.training.restore import saved_config

CONFIGS = sorted((Path(__file__).parents[1] / "recipes" / "configs").glob("*.yaml"))


def test_the_command_line_goes_before_the_file_before_the_defaults(tmp_path: Path) -> None:
    file, defaults = tmp_path / "file.yaml", tmp_path / "defaults.yaml"
    defaults.write_text("data: a\nmodel: b\nepochs: 3\n")
    file.write_text("model: c\nepochs: 4\n")
    config = parse_config(["--config", str(file), "--epochs", "5"], defaults)
    assert (config.data, config.model, config.epochs) == ("a", "c", 5)


def test_yaml_words_that_look_like_other_types(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("data: a\nlr: 1e-3\nmixed_precision: no\nresume: no\nmodes: [feat]\n")
    config = parse_config(["-c", str(tmp_path / "file.yaml")])
    assert (config.lr, config.mixed_precision, config.resume, config.modes) == (1e-3, "no", "no", ["feat"])


def test_saved_options_are_read_back(tmp_path: Path) -> None:
    line = "--data a --opt-args betas=[0.9,0.95] nesterov=true --assignment none --mixers alignmix cutmix --lr 0.3"
    config = parse_config(line.split())
    assert config.opt_args == {"betas": [0.9, 0.95], "nesterov": True}
    config.save(tmp_path / "config.yaml")
    assert parse_config(["-c", str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize(
    ("written", "assignment"),
    [
        *(("aligned: true", "transport"), ("aligned: false", "none"), ("aligned: no", "none")),
        *(("assignment: none", "none"), ("alpha: 2.0", "transport")),
    ],
)
def test_a_config_of_an_earlier_version_keeps_its_meaning(written: str, assignment: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"data: a\n{written}\n")
    (tmp_path / PROGRESS).touch()
    line = ["-c", str(tmp_path / "config.yaml")]
    assert parse_config(line).assignment == assignment
    assert parse_config([*line, "--assignment", "shuffled"]).assignment == "shuffled"
    assert saved_config(tmp_path).assignment == assignment


def test_a_run_with_a_scale_that_was_removed_is_evaluated_but_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "last" / "config.yaml"
    saved.parent.mkdir()
    (saved.parent / PROGRESS).touch()
    saved.write_text("data: a\ncost_scale: mean\nepsilon: 0.02\naligned: true\n")
    assert parse_config(["--eval-only", str(tmp_path)]).cost_scale == "rms"
    check_changes(parse_config(["--eval-only", str(tmp_path)]), saved.parent)
    with pytest.raises(SystemExit):
        parse_config(["-c", str(saved), "--resume", "auto"])
    assert "cost_scale 'mean' was removed" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match=r"cannot go on as it was trained. cost_scale 'mean' was removed: .*config.yaml"
    ):
        check_changes(TrainConfig(data="a"), saved.parent)
    check_changes(TrainConfig(data="a", mixers=["cutmix"]), saved.parent)  # never aligns
    with pytest.raises(ValueError, match="cost_scale 'mean' was removed"):
        saved_config(saved.parent)  # for pictures and measurements, which align


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--data a --bacth-size 3", "unknown option '--bacth-size'. Did you mean '--batch-size'?"),
        ("--epochs 3", "data must be the name of a dataset on the Hub or a folder: pass --data or --train-dir."),
        ("--data a --epochs 0", "epochs must be >= 1, got 0."),
        ("--data a --mixers", "mixers must not be empty"),
        (
            "--data a --mixers alignmax",
            "got 'alignmax'. Did you mean 'alignmix'?",
        ),
        ("--data a --modes feet", "got 'feet'. Did you mean 'feat'?"),
        ("--data a --loss foo", "loss must be among ('ce', 'bce', 'bce_softmax'), got 'foo'."),
        ("--data a --sched cosin", "got 'cosin'. Did you mean 'cosine'?"),
        ("--data a --lr fast", "lr must be of type float, got 'fast'."),
        ("--data a --decay-milestones 30 x", "decay_milestones must be of type int, got 'x'."),
        ("--data a --epochs 3.5", "epochs must be of type int, got '3.5'."),
        ("--data a --epochs", "--epochs: expected one argument."),
        ("--data a --compile=1", "--compile/--no-compile: ignored explicit argument '1'."),
        ("--data a --epsilon -1", "epsilon must be"),
        ("--data a --opt-args lr", "--opt-args must be name=value, got 'lr'."),
        ("--data a --trackers wandbe", "trackers must be among"),
        ("--data a --push-to-hub a/b/c", "the repository must be named USER/NAME, got 'a/b/c'"),
        ("--data a --no-aligned", "--no-aligned was removed: pass --assignment none."),
        ("--aligned --data a", "--aligned was removed: pass --assignment transport."),
        ("--data a --assignment shuffle", "got 'shuffle'. Did you mean 'shuffled'?"),
        ("--data a --cost-scale mean", "cost_scale 'mean' was removed: it divided by the norms of the features"),
        ("--data a --push-every 2", "push_every needs push_to_hub"),
        ("--data a --push-to-hub a/b --push-every 3 --eval-every 2", "push_every must be a multiple of eval_every"),
        ("--data a -c none.yaml", "config must be a readable YAML file"),
    ],
)
def test_wrong_options_are_named(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_config(line.split())
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--mean 0.5 0.5", "mean must be one number, or one for each of the 3 channels, got [0.5, 0.5]."),
        ("--in-chans 1 --std 1 1 1", "std must be one number, got [1.0, 1.0, 1.0]."),
        ("--mean", "mean must be one number, or one for each of the 3 channels, got []."),
        ("--mean nan 0 0", "mean must hold finite numbers, got [nan, 0.0, 0.0]."),
        ("--std 0", "std must hold finite numbers > 0, got [0.0]."),
        ("--scale 1 0.5", "scale must be two numbers > 0, the smaller one first, at most 1, got [1.0, 0.5]."),
        ("--scale 0.5 2", "scale must be two numbers > 0, the smaller one first, at most 1"),
        ("--ratio 0 1", "ratio must be two numbers > 0, the smaller one first, got [0.0, 1.0]."),
        ("--ratio 1", "ratio must be two numbers > 0"),
        ("--crop-pct 0", "crop_pct must be in (0, 1], got 0.0."),
        ("--crop-pct 1.5", "crop_pct must be in (0, 1], got 1.5."),
        ("--img-size -5", "img_size must be >= 1, got -5."),
        ("--input-size 3 64", "input_size must be 1 or 3 channels, a height and a width >= 1, got [3, 64]."),
        ("--input-size 4 64 64", "input_size must be 1 or 3 channels, a height and a width >= 1, got [4, 64, 64]."),
        ("--input-size 3 0 64", "input_size must be 1 or 3 channels, a height and a width >= 1, got [3, 0, 64]."),
        (
            "--input-size 3 64 96 --img-size 64",
            "input_size and img_size must not both be given, got [3, 64, 96] and 64.",
        ),
        ("--input-size 3 64 96 --in-chans 1", "in_chans must be that of input_size, [3, 64, 96], got 1."),
        ("--input-size 1 64 96 --mean 1 1 1", "mean must be one number, got [1.0, 1.0, 1.0]."),
        ("--max-pixels 0", "max_pixels must be >= 1, got 0."),
        ("--hflip 3", "hflip must be in [0, 1], got 3.0."),
        ("--vflip -0.1", "vflip must be in [0, 1], got -0.1."),
        ("--reprob 2", "reprob must be in [0, 1], got 2.0."),
        ("--drop-path 1", "drop_path must be in [0, 1), got 1.0."),
        ("--color-jitter -1", "color_jitter must be >= 0, got -1.0."),
        ("--lr -1", "lr must be >= 0, got -1.0."),
        ("--lr nan", "lr must be >= 0, got nan."),
        ("--lr inf", "lr must be >= 0, got inf."),
        ("--lr-base-size 0", "lr_base_size must be >= 1, got 0."),
        ("--min-lr -1", "min_lr must be >= 0, got -1.0."),
        ("--momentum 2", "momentum must be in [0, 1), got 2.0."),
        ("--weight-decay -1", "weight_decay must be >= 0, got -1.0."),
        ("--sched step --decay-epochs 0", "decay_epochs must be > 0, got 0.0."),
        ("--decay-rate 0", "decay_rate must be > 0, got 0.0."),
        ("--sched multistep --decay-milestones 5 3", "decay_milestones must be epochs >= 1 in ascending order"),
        ("--sched multistep --decay-milestones", "decay_milestones must be epochs >= 1 in ascending order, got []."),
        ("--clip-grad 0", "clip_grad must be > 0, got 0.0."),
        ("--model-ema-decay 2", "model_ema_decay must be in [0, 1], got 2.0."),
        ("--warmup-epochs -1", "warmup_epochs must be >= 0, got -1."),
        ("--mix-off-epoch -1", "mix_off_epoch must be >= 0, got -1."),
        ("--mixers cutmix --mixer-args cutmix.alpha=x", "cutmix: alpha must be of type float, got 'x'."),
        ("--mixers cutmix --mixer-args cutmix.alpha=.inf", "cutmix: alpha must be finite, got inf."),
        ("--mixers cutmix --mixer-args cutmix.per_example=maybe", "cutmix: per_example must be of type bool, got"),
        ("--mixers cutmix --mixer-args cutmix.minmax=[a,b]", "cutmix: minmax must be two shares in [0, 1]"),
        ("--mixer-args alignmix.modes=[input,clean]", "modes must not hold 'clean'"),
        ("--alpha inf", "alpha must be > 0, got inf. The paper's value is 2."),
        ("--mixup-alpha 0", "mixup_alpha must be > 0, got 0.0. To leave it out, see --mixers."),
        ("--smoothing 1", "smoothing must be in [0, 1), got 1.0."),
        ("--val-fraction 1", "val_fraction must be in (0, 1), got 1.0."),
        ("--num-classes 0", "num_classes must be >= 1, got 0."),
        ("--train-samples 0", "train_samples must be >= 1, got 0."),
    ],
)
def test_values_out_of_range_are_named(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_config(["--data", "a", *line.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "line", "sizes"),
    [
        ("img_size: 224", "--input-size 1 128 256", (None, [1, 128, 256], 1, (128, 256))),
        ("input_size: [3, 128, 256]", "--img-size 64", (64, None, 3, 64)),
        ("input_size: [3, 64, 64]", "", (None, [3, 64, 64], 3, 64)),
    ],
)
def test_the_later_size_counts_in_either_form(file: str, line: str, sizes: tuple, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(f"data: a\n{file}\n")
    config = parse_config(["-c", str(tmp_path / "file.yaml"), *line.split()])
    assert (config.img_size, config.input_size, config.in_chans, config.image_size) == sizes
    config.save(tmp_path / "config.yaml")
    assert parse_config(["-c", str(tmp_path / "config.yaml")]) == config


def test_every_number_has_a_range() -> None:
    """An option that is added later is checked, too, or listed here with the reason."""
    elsewhere = {"in_chans", "num_iters", "align_size", "max_positions"}  # by config and operator, and by the map
    lists = {"scale", "ratio", "decay_milestones"}
    numbers = {
        name for name, kind in typing.get_type_hints(TrainConfig).items() if {int, float} & {kind, *get_args(kind)}
    }
    ranged = {name for names in _INTERVALS.values() for name in names}
    assert numbers - ranged - lists == elsewhere


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3", "has an unknown option 'batchsize'. Did you mean 'batch_size'?"),
        ("data: a\nepochs: many", "epochs must be of type int, got 'many'."),
        ("data: a\nloss: mse", "loss must be among ('ce', 'bce', 'bce_softmax'), got 'mse'."),
        ("data: a\ncompile: 1", "compile must be of type bool, got 1."),
        ("- a", "config must hold 'option: value' lines, got list"),
    ],
)
def test_wrong_files_are_named(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(SystemExit):
        parse_config(["-c", str(tmp_path / "file.yaml")])
    assert message in capsys.readouterr().err


def test_help_shows_every_option_in_its_group_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    examples = "What it does.\n\n    python train.py --data path/to/folder     # as written\n    python train.py\n"
    with pytest.raises(SystemExit):
        parse_config(["--help"], description=examples)
    shown = capsys.readouterr().out
    assert examples in shown
    titles = ("data", "model", "augmentation", "mixing", "optimisation", "run")
    places = [shown.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    assert places[3] < shown.index("--epsilon X") < places[4]
    assert all(re.search(rf"^  --{name.replace('_', '-')}[ ,]", shown, re.M) for name in asdict(TrainConfig()))
    for default in ("(default: 0.2)", "(default: input embed feat feat_swap)", "(default: on)", "(default: cosine)"):
        assert default in shown.replace("\n" + 32 * " ", " ")
    assert "None" not in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_every_option_belongs_to_one_group_and_has_a_role() -> None:
    names = [option.name for group in GROUPS.values() for option in fields(group)]
    assert sorted(names) == sorted(asdict(TrainConfig()))
    roles = {role: set(names_of(TrainConfig, role)) for role in get_args(Role)}
    assert set().union(*roles.values()) == set(names)
    assert {"workers", "output", "resume"} < roles["call"]
    assert {"model", "method"} < roles["model"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_read_and_say_what_to_expect(path: Path) -> None:
    parse_config(["-c", str(path), "--data", "a"])
    header = path.read_text().split("\n\n")[0]
    assert all(
        word in header for word in ("python " if "python " in header else "accelerate launch", "Hardware:", "Time")
    )


def test_arguments_of_mixers_are_typed_and_a_mixer_given_twice_is_drawn_twice_as_often() -> None:
    line = "--data a --mixers cutmix cutmix alignmix --mixer-args cutmix.alpha=1e-3 cutmix.minmax=[0.2,0.5]"
    mixer = build_mixer(parse_config(line.split()))
    assert [part.name for part in mixer.mixers] == ["cutmix", "alignmix"]
    assert list(mixer.probabilities) == [2, 1]
    assert mixer.mixers[0].alpha == 1e-3


@pytest.mark.parametrize(
    ("epochs", "warmup", "sched", "refused"),
    [
        (2, 5, "cosine", True),
        (2, 2, "step", True),
        (1, 1, "poly", True),
        (2, 1, "cosine", False),
        (2, 5, "none", False),
    ],
)
def test_a_warm_up_ends_before_the_run(epochs: int, warmup: int, sched: Any, refused: bool) -> None:
    config = TrainConfig(data="a", epochs=epochs, warmup_epochs=warmup, sched=sched)
    with (
        pytest.raises(ValueError, match=rf"warmup_epochs must be less than epochs, got {warmup} of {epochs}")
        if refused
        else contextlib.nullcontext()
    ):
        config.check()


def test_paths_are_saved_as_absolute_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "weights.pt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for data, saved in (("images", "images"), ("./images/", "images"), ("~/images", "images")):
        TrainConfig(data=data, initial_checkpoint="weights.pt").save(tmp_path / "config.yaml")
        values = read_yaml(tmp_path / "config.yaml")
        assert Path(values["data"]) == tmp_path / saved
        assert values["initial_checkpoint"] == str(tmp_path / "weights.pt")
        assert not changes(TrainConfig(data="images", initial_checkpoint=values["initial_checkpoint"]), tmp_path)
    for data in ("uoft-cs/cifar10", "", "no/such/folder"):  # on the Hub, or nowhere
        TrainConfig(data=data, initial_checkpoint="hf-hub:a/b").save(tmp_path / "config.yaml")
        assert read_yaml(tmp_path / "config.yaml")["data"] == data
        assert read_yaml(tmp_path / "config.yaml")["initial_checkpoint"] == "hf-hub:a/b"


def test_changed_options_are_told_with_both_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TrainConfig(data="a", epochs=2, lr=0.1, mixers=["alignmix"]).save(tmp_path / "config.yaml")
    check_changes(TrainConfig(data="a", epochs=3, lr=0.2, mixers=["cutmix"]), tmp_path)
    told = "epochs 2, got 3; lr 0.1, got 0.2"
    assert f"Other options than in {tmp_path}: mixers ['alignmix'], got ['cutmix']; {told}." in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push_branch": "trial"}, "push_branch needs push_to_hub"),
        ({"push_branch": "", "push_to_hub": "a/b"}, "the branch must be named as in git"),
        ({"push_branch": "my trial", "push_to_hub": "a/b"}, "the branch must be named as in git"),
        ({"push_branch": "a//b", "push_to_hub": "a/b"}, "the branch must be named as in git"),
        ({"push_branch": "user/trial-1.0_b", "push_to_hub": "a/b"}, ""),
    ],
)
def test_the_branch_to_publish_on(options: dict[str, Any], message: str) -> None:
    config = TrainConfig(data="a", **options)
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        config.check()
