"""Options of the optimisation, and of the run itself."""

from dataclasses import dataclass
from typing import Any, Literal

from ..nearest import nearest
from ..publishing.repo_id import check_branch, check_name
from .options import OptionGroup, option

TRACKERS = ("tensorboard", "wandb", "trackio", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab")


@dataclass
class OptimizationOptions(OptionGroup):
    """How the weights are optimised. Everything counts optimizer steps, never micro-batches or processes."""

    epochs: int = option(100, "epochs; the last, incomplete batch of an epoch is dropped")
    batch_size: int = option(256, "images for each optimizer step, over all processes")
    micro_batch_size: int | None = option(None, "images for each forward pass; default batch_size / processes")
    opt: str = option("sgd", "optimizer, by its name in timm", role="optimizer")
    opt_args: dict[str, Any] = option({}, "more arguments of the optimizer, as name=value", role="optimizer")
    lr: float | None = option(None, "learning rate; default lr_base * batch_size / lr_base_size")
    lr_base: float = option(0.1, "learning rate at lr_base_size")
    lr_base_size: int = option(256, "see lr; the only rule by which it scales, for every optimizer")
    body_lr_scale: float = option(1.0, "learning rate of all but the classifier, relative to lr", role="optimizer")
    weight_decay: float = option(1e-4, "weight decay; not for biases and norms", role="optimizer")
    momentum: float = option(0.9, "momentum", role="optimizer")
    layer_decay: float | None = option(None, "learning rate decay from layer to layer", role="optimizer")
    sched: Literal["cosine", "step", "multistep", "poly", "tanh", "none"] = option(
        "cosine", "timm's learning-rate schedule; none: constant, without warm-up"
    )
    warmup_epochs: int = option(0, "epochs of linear warm-up")
    warmup_lr: float = option(1e-5, "learning rate at the start of the warm-up")
    min_lr: float = option(0.0, "learning rate at the end")
    decay_epochs: float = option(30, "step: epochs between decays")
    decay_milestones: list[int] = option([30, 60, 90], "multistep: epochs of the decays")
    decay_rate: float = option(0.1, "step, multistep: factor of each decay; poly: the power")
    clip_grad: float | None = option(None, "clip gradients at this value")
    clip_mode: Literal["norm", "value", "agc"] = option("norm", "how to clip gradients")
    model_ema: bool = option(False, "keep and evaluate an exponential moving average of the weights")
    model_ema_decay: float = option(0.9998, "its decay")
    model_ema_warmup: bool = option(False, "let the decay grow at the start")
    sync_bn: bool = option(False, "batch-norm statistics over all processes (GPUs only)")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(None, "default: as accelerate launch says")
    channels_last: bool = option(False, "channels_last memory format")
    grad_checkpointing: bool = option(False, "recompute activations in the backward pass")
    compile: bool = option(False, "compile the network")
    seed: int = option(0, "everything random follows from it")

    def check(self) -> None:
        if self.sched != "none" and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs, got {self.warmup_epochs} of {self.epochs}: the learning rate "
                "would never reach its peak."
            )


@dataclass
class RunOptions(OptionGroup):
    """Where a run goes, how it is watched, saved, continued and published."""

    output: str = option("run", "folder of the run", role="call")
    resume: str = option(
        "no", "no; auto: go on with the run in the output folder, if there is one; or a checkpoint", role="call"
    )
    checkpoint_every: int | None = option(None, "steps between checkpoints; there is always one at an evaluation")
    keep_checkpoints: int = option(2, "checkpoints to keep, besides the best")
    eval_every: int = option(1, "epochs between evaluations")
    eval_only: str | None = option(None, "evaluate this checkpoint, with the options it was trained with", role="call")
    log_every: int = option(50, "steps between lines of metrics", role="call")
    trackers: list[str] = option([], f"also log to {', '.join(TRACKERS)}", role="call")
    project: str = option("alignmix", "name of the project in the trackers", role="call")
    push_to_hub: str | None = option(
        None, "publish the model at the end, as USER/NAME on the Hugging Face Hub", role="call"
    )
    push_every: int | None = option(None, "publish it every so many epochs, too, in the background", role="call")
    push_branch: str | None = option(None, "branch to publish it on, made if there is none; default main", role="call")
    hub_private: bool = option(False, "only you can see a repository that is made for it", role="call")
    dry_run: bool = option(
        False, "two steps on synthetic images, evaluate, save, load again: offline, on anything", role="call"
    )

    def check(self) -> None:
        unknown = [tracker for tracker in self.trackers if tracker not in TRACKERS]
        if unknown:
            raise ValueError(f"trackers must be among {TRACKERS}, got {unknown}.{nearest(unknown[0], TRACKERS)}")
        if self.push_to_hub is not None:
            check_name(self.push_to_hub)
        elif self.push_every is not None or self.push_branch is not None:
            name = "push_branch" if self.push_every is None else "push_every"
            raise ValueError(f"{name} needs push_to_hub: pass --push-to-hub USER/NAME.")
        if self.push_branch is not None:
            check_branch(self.push_branch)
        if self.push_every is not None and self.push_every % self.eval_every:
            raise ValueError(
                f"push_every must be a multiple of eval_every, for a card with results: got {self.push_every}, "
                f"and {self.eval_every}."
            )
