"""The options of a training run: their meaning, defaults, and how they are read from YAML and the command line."""

import argparse
import sys
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from .errors import end
from .option_ranges import check_lists, check_ranges
from .options import argument, nearest, typed
from .params import MODES, check_draw_options, check_no_clean
from .repository import check_name
from .sinkhorn import check_options

Mixer = Literal["alignmix", "mixup", "cutmix", "none"]
Method = Literal["alignmix", "alignmix_ae", "alignmix_vae"]

TRACKERS = ("tensorboard", "wandb", "trackio", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab")


def _option(default: Any, text: str) -> Any:
    help_text = {"help": text}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=help_text)
    return field(default=default, metadata=help_text)


@dataclass
class TrainConfig:
    """Everything that decides a run; ``config.yaml`` in its folder holds the values used."""

    # Data
    data: str = _option("", "dataset on the Hub, or folder: of class folders, parquet files, or save_to_disk")
    data_config: str | None = _option(None, "configuration of the dataset, where it has several")
    revision: str | None = _option(None, "branch, tag or commit of the dataset on the Hub")
    train_split: str = _option("train", "name of the training split")
    val_split: str | None = _option(None, "evaluation split; default validation, val, valid, dev or test")
    val_fraction: float = _option(0.1, "without an evaluation split: share of the training rows held out for it")
    image_column: str | None = _option(None, "default: the first column of images")
    label_column: str | None = _option(None, "default: the first column of class labels")
    num_classes: int | None = _option(None, "default: as many as the dataset names")
    max_train_samples: int | None = _option(
        None, "use this many training rows, drawn at random, or the first that stream"
    )
    max_eval_samples: int | None = _option(None, "use this many evaluation rows, drawn at random")
    streaming: bool = _option(False, "read the training data in order of its shards, without downloading it first")
    shuffle_buffer: int = _option(10_000, "streaming: rows to draw from at random")
    train_samples: int | None = _option(None, "streaming: rows in an epoch; default as the dataset says")
    skip_corrupt: bool = _option(False, "replace images that cannot be read by the next row, and report them")
    workers: int = _option(4, "data workers for each process")

    # Model
    model: str = _option("resnet50", "any name of timm.list_models()")
    pretrained: bool = _option(False, "start from timm's pretrained weights")
    initial_checkpoint: str | None = _option(
        None, "start from hf-hub:USER/NAME, a folder saved for timm, or a file of weights"
    )
    img_size: int | None = _option(None, "height and width of the images; default as the model was built for")
    in_chans: int = _option(3, "channels of the images: 3, or 1 for grey")
    drop: float | None = _option(None, "dropout before the classifier")
    drop_path: float | None = _option(None, "stochastic depth")
    model_args: dict[str, Any] = _option({}, "more arguments of timm.create_model, as name=value")
    embedding: Literal["none", "flatten", "tensor"] = _option(
        "none", "put the paper's encoder on the model: fully-connected on the flattened map, or a tensor by convolution"
    )
    embed_dim: int = _option(512, "embedding: its size")
    grid: int = _option(4, "embedding: average larger maps down to grid x grid")

    # Augmentation
    train_crop: Literal["rrc", "pad", "resize"] = _option(
        "rrc", "random resized crop; crop of the padded image (CIFAR); random crop of the resized image (8/7 its size)"
    )
    scale: list[float] = _option([0.08, 1.0], "rrc: range of the area")
    ratio: list[float] = _option([0.75, 1.3333], "rrc: range of the aspect ratio")
    hflip: float = _option(0.5, "probability of a horizontal flip")
    vflip: float = _option(0.0, "probability of a vertical flip")
    color_jitter: float = _option(0.0, "colour jitter")
    aa: str | None = _option(None, "timm's automatic augmentation, such as rand-m7-mstd0.5-inc1")
    reprob: float = _option(0.0, "probability of random erasing")
    crop_pct: float | None = _option(None, "evaluation: cropped share of the image; default the model's")
    crop_mode: Literal["center", "squash", "border"] | None = _option(
        None,
        "evaluation: crop at the centre; whole image, its sides scaled apart; or with a border; default the model's",
    )
    interpolation: str | None = _option(None, "default the model's")
    mean: list[float] | None = _option(None, "of each channel; default the model's")
    std: list[float] | None = _option(None, "of each channel; default the model's")

    # Mixing
    method: Method = _option(
        "alignmix", "with an autoencoder, one more case beside the modes reconstructs clean images, whatever mix_prob"
    )
    mixers: list[Mixer] = _option(["alignmix"], "one is drawn for each update; mixup and cutmix are timm's")
    mix_prob: float = _option(1.0, "probability that an update mixes at all")
    mix_off_epoch: int | None = _option(None, "mix no more from this epoch on")
    modes: list[str] = _option(list(MODES), "AlignMix: modes to draw from; clean alone trains a plain autoencoder")
    alpha: float = _option(2.0, "AlignMix: lam ~ Beta(alpha, alpha)")
    per_example: bool = _option(True, "AlignMix: one lam for each example, or one for the batch")
    mixup_alpha: float = _option(0.8, "timm's mixup")
    cutmix_alpha: float = _option(1.0, "timm's CutMix")
    feature_module: str | None = _option(None, "AlignMix: module to mix at; default the automatic choice")
    aligned: bool = _option(True, "AlignMix: align the features before mixing them")
    align_embedding: bool = _option(False, "AlignMix: align the embedding, if it is a tensor")
    epsilon: float = _option(0.02, "AlignMix: entropic regularisation")
    num_iters: int = _option(20, "AlignMix: Sinkhorn iterations")
    cost_scale: Literal["mean", "raw"] = _option("mean", "AlignMix: costs relative to their mean, or as they are")
    align_size: int | None = _option(None, "AlignMix: align at this coarser resolution")
    max_positions: int = _option(196, "AlignMix: align larger maps in blocks")
    smoothing: float = _option(0.0, "label smoothing")
    reconstruction_weight: float = _option(
        1.0, "autoencoder: factor of the squared error, mean over pixels and channels in [-1, 1]"
    )
    kl_weight: float | None = _option(None, "alignmix_vae: share of the divergence; default 1 / (C * H * W)")
    decoder_width: int = _option(128, "autoencoder: channels of the decoder")
    loss: Literal["ce", "bce"] = _option("ce", "cross-entropy, or timm's binary cross-entropy")
    bce_target_thresh: float | None = _option(None, "bce: targets above this count as 1")

    # Optimisation: everything counts updates, never micro-batches or processes
    epochs: int = _option(100, "epochs; the last, incomplete batch of an epoch is dropped")
    batch_size: int = _option(256, "images for each update, over all processes")
    micro_batch_size: int | None = _option(None, "images for each forward pass; default batch_size / processes")
    opt: str = _option("sgd", "optimizer, by its name in timm")
    opt_args: dict[str, Any] = _option({}, "more arguments of the optimizer, as name=value")
    lr: float | None = _option(None, "learning rate; default lr_base * batch_size / lr_base_size")
    lr_base: float = _option(0.1, "learning rate at lr_base_size")
    lr_base_size: int = _option(256, "see lr; the only rule by which it scales, for every optimizer")
    body_lr_scale: float = _option(1.0, "learning rate of all but the classifier, relative to lr")
    weight_decay: float = _option(1e-4, "weight decay; not for biases and norms")
    momentum: float = _option(0.9, "momentum")
    layer_decay: float | None = _option(None, "learning rate decay from layer to layer")
    sched: Literal["cosine", "step", "multistep", "poly", "tanh", "none"] = _option(
        "cosine", "timm's schedule; none: constant, without warm-up"
    )
    warmup_epochs: int = _option(0, "epochs of linear warm-up")
    warmup_lr: float = _option(1e-5, "learning rate at the start of the warm-up")
    min_lr: float = _option(0.0, "learning rate at the end")
    decay_epochs: float = _option(30, "step: epochs between decays")
    decay_milestones: list[int] = _option([30, 60, 90], "multistep: epochs of the decays")
    decay_rate: float = _option(0.1, "step, multistep: factor of each decay; poly: the power")
    clip_grad: float | None = _option(None, "clip gradients at this value")
    clip_mode: Literal["norm", "value", "agc"] = _option("norm", "how to clip gradients")
    model_ema: bool = _option(False, "keep and evaluate an exponential moving average of the weights")
    model_ema_decay: float = _option(0.9998, "its decay")
    model_ema_warmup: bool = _option(False, "let the decay grow at the start")
    sync_bn: bool = _option(False, "batch-norm statistics over all processes (GPUs only)")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = _option(None, "default: as accelerate launch says")
    channels_last: bool = _option(False, "channels_last memory format")
    grad_checkpointing: bool = _option(False, "recompute activations in the backward pass")
    compile: bool = _option(False, "compile the network")
    seed: int = _option(0, "everything random follows from it")

    # The run
    output: str = _option("run", "folder of the run")
    resume: str = _option("no", "no; auto: go on with the run in the output folder, if there is one; or a checkpoint")
    checkpoint_every: int | None = _option(None, "updates between checkpoints; there is always one at an evaluation")
    keep_checkpoints: int = _option(2, "checkpoints to keep, besides the best")
    eval_every: int = _option(1, "epochs between evaluations")
    eval_only: str | None = _option(None, "evaluate this checkpoint, with the options it was trained with")
    log_every: int = _option(50, "updates between lines of metrics")
    trackers: list[str] = _option([], f"also log to {', '.join(TRACKERS)}")
    project: str = _option("alignmix", "name of the project in the trackers")
    push_to_hub: str | None = _option(None, "publish the model at the end, as USER/NAME on the Hugging Face Hub")
    push_every: int | None = _option(None, "publish it every so many epochs, too, in the background")
    hub_private: bool = _option(False, "only you can see a repository that is made for it")
    dry_run: bool = _option(False, "two updates on synthetic images, evaluate, save, load again: offline, on anything")

    def check(self) -> None:
        """Bring the values into their types; raise ValueError for one outside its range."""
        hints = typing.get_type_hints(TrainConfig)
        for option in fields(self):
            setattr(self, option.name, typed(option.name, hints[option.name], getattr(self, option.name)))
        if not self.data and not self.dry_run:
            raise ValueError("data must be the name of a dataset on the Hub or a folder: pass --data.")
        check_ranges(vars(self))
        if self.in_chans not in (1, 3):
            raise ValueError(f"in_chans must be 1 or 3, got {self.in_chans}.")
        check_lists(vars(self))
        if self.layer_decay is not None and self.embedding != "none":
            raise ValueError(
                "layer_decay needs --embedding none: the encoder does not tell its backbone's layers apart."
            )
        if self.align_embedding and self.embedding != "tensor":
            raise ValueError(f"align_embedding needs --embedding tensor, got {self.embedding!r}.")
        if self.method != "alignmix" and (self.embedding == "none" or "alignmix" not in self.mixers):
            raise ValueError(
                f"method {self.method!r} needs --embedding flatten or tensor, and alignmix among --mixers."
            )
        if self.method == "alignmix":
            check_no_clean(self.modes)
        if not self.mixers:
            raise ValueError("mixers must not be empty: use 'none' to train without mixing.")
        unknown = [tracker for tracker in self.trackers if tracker not in TRACKERS]
        if unknown:
            raise ValueError(f"trackers must be among {TRACKERS}, got {unknown}.")
        check_draw_options(self.alpha, self.modes, None, self.mix_prob)
        check_options(self.epsilon, self.num_iters, self.cost_scale)
        self._check_push()

    def _check_push(self) -> None:
        if self.push_to_hub is not None:
            check_name(self.push_to_hub)
        elif self.push_every is not None:
            raise ValueError("push_every needs push_to_hub: pass --push-to-hub USER/NAME.")
        if self.push_every is not None and self.push_every % self.eval_every:
            raise ValueError(
                f"push_every must be a multiple of eval_every, for a card with results: got {self.push_every}, "
                f"and {self.eval_every}."
            )

    def save(self, path: Path) -> None:
        """Write as YAML."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Options from a YAML file.

    Raises:
        ValueError: no such file, or not a mapping of options; an unknown one is named with the nearest that exists.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"config must be a readable YAML file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config must hold 'option: value' lines, got {type(values).__name__} in {path}.")
    names = [option.name for option in fields(TrainConfig)]
    for name in values:
        if name not in names:
            raise ValueError(f"{path} has an unknown option {name!r}.{nearest(str(name), names)}")
    return values


def find_config(path: str) -> Path:
    """The options of the checkpoint, or of the last checkpoint of the run, at this path."""
    within = Path(path) / "last" / "config.yaml"
    return within if within.exists() else Path(path) / "config.yaml"


def parse_config(
    argv: Sequence[str] | None = None, defaults: str | Path | None = None, description: str | None = None
) -> TrainConfig:
    """Options of a run: those of the command line, before those of ``--config``, before ``defaults``.

    Args:
        argv: Command line; default ``sys.argv[1:]``.
        defaults: YAML file of a recipe.
        description: Shown by ``--help``.

    Raises:
        SystemExit: an unknown option, named with the nearest that exists, or a value outside its range.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    argv = sys.argv[1:] if argv is None else argv
    shown = asdict(TrainConfig()) if {"-h", "--help"} & set(argv) else {}
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file of options; the command line goes before it")
    hints = typing.get_type_hints(TrainConfig)
    for option in fields(TrainConfig):
        flag, default = "--" + option.name.replace("_", "-"), shown.get(option.name, argparse.SUPPRESS)
        parser.add_argument(flag, default=default, help=option.metadata["help"], **argument(hints[option.name]))
    try:
        namespace, unknown = parser.parse_known_args(argv)
        given = vars(namespace)
        if unknown:
            flags = [flag for action in parser._actions for flag in action.option_strings]
            raise ValueError(f"unknown option {unknown[0]!r}.{nearest(unknown[0].partition('=')[0], flags)}")
        files = [defaults, given.pop("config")]
        if given.get("eval_only"):
            files.append(find_config(given["eval_only"]))
        layers: dict[str, Any] = {}
        for file in files:
            if file is not None:
                layers |= read_yaml(file)
        config = TrainConfig(**layers | given)
        config.check()
    except (ValueError, TypeError) as error:
        end(f"{parser.prog}: error: {error}", 2)
    return config
