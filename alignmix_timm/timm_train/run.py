"""AlignMix in a run of somebody's script: what was asked for, the batches, and whether they were mixed."""

import argparse
import pickle
from collections import Counter
from dataclasses import replace
from typing import Any, NoReturn

import timm
import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..dropin import AlignMix
from ..mixers import AlignMixup, CutMix, Mixer, OneOf, make_mixer
from ..points import unannounced
from .messages import say, stop
from .options import Options, Requested, given_in, mixer_args, option_name
from .refusals import refuse

_NEGLIGIBLE = 1e-6  # chance to mix nothing by --mixup-prob, below which something is wrong


class ScriptRun:
    """One run of a script under the launcher.

    The number of the batch is kept in the script's parsed arguments, which timm saves in every checkpoint.

    Attributes:
        requested: ``--mixup NAME`` of one of our mixers was parsed, and not overridden.
        patched: Names of timm that were replaced, for the line at the start.
    """

    def __init__(self) -> None:
        self.requested = False
        self.patched: list[str] = []
        self._args: argparse.Namespace | None = None
        self._options = Options()
        self._model: nn.Module | None = None
        self._mixup_fn: AlignMix | None = None
        self._name = ""
        self._counts: Counter[str] = Counter()
        self._chance_of_none = 1.0
        self._guard = register_optimizer_step_pre_hook(self._before_step)

    def request(self) -> None:
        """The parser reads ``--mixup alignmix``."""
        self.requested = True

    def take_arguments(self, args: argparse.Namespace) -> None:
        """Read the parsed arguments, and leave plain values in them: timm loads no others from a checkpoint."""
        self._args = args
        self.requested = isinstance(getattr(args, "mixup", None), Requested)
        if not self.requested:
            unused = ", ".join(option_name(name) for name in given_in(args))
            say(f"AlignMix is off: no --mixup alignmix{f'; no effect: {unused}' if unused else ''}.")
            return
        self._name = args.mixup.name
        try:
            self._options = Options.of(args)
            mixer = self._mixer(args)
        except ValueError as error:
            stop(f"among the options --alignmix-* and --mixer-args: {error}", 2)
        if self._name == "cutmix" and (getattr(args, "cutmix", False) or getattr(args, "cutmix_minmax", None)):
            stop("--mixup cutmix cannot be combined with --cutmix: use --mixer-args alpha=..., minmax=[...].", 2)
        refuse(args, mixer)
        args.mixup = float(args.mixup)
        args.alignmix_step = 0

    def take_model(self, model: nn.Module) -> None:
        """Note the first model that the script creates: the one that it trains."""
        if self._model is None:
            self._model = model

    def resume(self, checkpoint: str) -> None:
        """Go on with the batch after the last of a checkpoint, so that draws are not repeated."""
        if not self.requested or self._args is None:
            return
        try:
            with torch.serialization.safe_globals([argparse.Namespace]):
                saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            saved = {}
        self._args.alignmix_step = getattr(saved.get("args"), "alignmix_step", 0)
        if not self._args.alignmix_step:
            say(f"{checkpoint} does not hold the number of its last batch: AlignMix draws from the first on.")

    def mix(self, settings: Mixup, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch of the script, or arm its model to mix it: see :class:`alignmix_timm.AlignMix`."""
        if self._args is None:
            self._stop_without_arguments()
        if self._mixup_fn is None:
            self._mixup_fn = self._start(self._args, settings, images)
            self._guard.remove()
        mixup_fn = self._mixup_fn
        mixup_fn.mixup_enabled, mixup_fn.step = settings.mixup_enabled, self._args.alignmix_step
        self._chance_of_none *= 1 - settings.mix_prob * settings.mixup_enabled
        if getattr(settings, "multi_label", False):  # timm smooths each label towards a half
            labels = labels * (1 - settings.label_smoothing) + 0.5 * settings.label_smoothing
        try:
            images, targets = mixup_fn(images, labels)
        except ValueError as error:
            stop(f"batches cannot be mixed: {error}")
        self._args.alignmix_step += 1
        self._counts[mixup_fn.last] += 1
        return images, targets

    def finish(self) -> None:
        """Check the last batch, print the counts, and exit if the run should have mixed and did not."""
        if not self.requested:
            return
        if self._args is None:
            self._stop_without_arguments()
        if self._mixup_fn is None:
            stop(f"--mixup {self._name} was asked for, and not one batch was trained with it.")
        self._mixup_fn.hooks.check()
        modes = ", ".join(f"{mode} {count}" for mode, count in sorted(self._counts.items()))
        mixed = self._counts.total() - self._counts["none"]
        say(f"{self._counts.total()} batches, {mixed} mixed ({modes}).")
        if not mixed and self._chance_of_none < _NEGLIGIBLE:
            stop("not one batch was mixed. Batches of one image have no partner: is --batch-size 1?")

    def close(self) -> None:
        """Let optimizers of this process step unwatched again."""
        self._guard.remove()

    def _start(self, args: argparse.Namespace, settings: Mixup, images: Tensor) -> AlignMix:
        """Hook the model. Only now: it is converted and wrapped, and not yet traced by torch.compile."""
        options = self._options
        if self._model is None:
            stop("the script made no model with timm.create_model: there is none to mix in.")
        if images.ndim != 4:
            stop(f"batches must be images [B, C, H, W], got shape {tuple(images.shape)}.")
        channels, height, width = images.shape[1:]
        try:
            with unannounced():
                mixup_fn = AlignMix(
                    self._model,
                    settings.num_classes,
                    settings.label_smoothing,
                    getattr(args, "seed", 0) or 0,
                    mixer=self._in_turns(args, settings),
                    feature_module=options.feature_module,
                    input_size=(channels, height, width),
                    epsilon=options.epsilon,
                    align_size=options.align_size,
                )
        except ValueError as error:
            stop(f"{type(self._model).__name__} cannot be mixed: {error}")
        names = dict.fromkeys(name.removeprefix("timm.").rpartition("data.")[2] for name in self.patched)
        how = options if self._name == "alignmix" else mixup_fn.mixer
        where = mixup_fn.hooks.describe(mixup_fn.mixer.feature_layers)
        say(f"mixes {where}.\n{how}.\nPatched in timm {timm.__version__}: {', '.join(names)}.")
        return mixup_fn

    def _mixer(self, args: argparse.Namespace) -> Mixer:
        """The mixer that ``--mixup`` names, with its options; ValueError for wrong ones."""
        given = mixer_args(args)
        if self._name == "alignmix":
            if given:
                raise ValueError(f"--mixer-args is for other mixers, got {given}. Use --alignmix-alpha and the like.")
            return self._options.mixer()
        if unused := given_in(args):
            raise ValueError(f"{option_name(unused[0])} is for --mixup alignmix, got --mixup {self._name}.")
        return make_mixer(self._name, **given)

    def _in_turns(self, args: argparse.Namespace, settings: Mixup) -> Mixer:
        """The mixer, in turns with CutMix where the script asks for it."""
        mixer = self._mixer(args)
        if settings.cutmix_alpha > 0:
            cutmix = CutMix(alpha=settings.cutmix_alpha, minmax=settings.cutmix_minmax)
            return OneOf((cutmix, mixer), (settings.switch_prob, 1 - settings.switch_prob), prob=settings.mix_prob)
        if isinstance(mixer, AlignMixup):
            return replace(mixer, prob=settings.mix_prob)  # draws as AlignMix does where it stands alone
        return OneOf((mixer,), prob=settings.mix_prob)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Until the first batch: an optimizer must not step on what AlignMix has not seen."""
        if not self.requested:
            return
        if self._args is None:
            self._stop_without_arguments()
        stop(
            "the optimizer steps, and no batch came through timm.data.Mixup, or through timm.data.FastCollateMixup and "
            "PrefetchLoader: the script would train without AlignMix."
        )

    def _stop_without_arguments(self) -> NoReturn:
        stop("the script never called timm.utils.init_distributed_device(args), where AlignMix reads its options.")
