"""The names of timm that are replaced while a script runs; train.py finds all of them by these public names."""

import argparse
import functools
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.mixup import FastCollateMixup, Mixup
from torch import Tensor

from .options import accepting_alignmix
from .run import ScriptRun

_current: ScriptRun | None = None  # in the main process, while a script runs


class AlignMixup(Mixup):
    """``timm.data.Mixup`` that leaves the batch to AlignMix, if that was asked for when it was made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.aligns = _current is not None and _current.requested

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not self.aligns or _current is None:
            return super().__call__(images, labels)
        return _current.mix(self, images, labels)


class AlignMixCollate(FastCollateMixup):
    """``timm.data.FastCollateMixup`` that mixes nothing, if AlignMix was asked for when it was made.

    Data workers receive it by pickle, also where they know nothing of the run; the batch is mixed after them.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.aligns = _current is not None and _current.requested

    def __call__(self, batch: Any, _: Any = None) -> tuple[Tensor, Tensor]:
        return fast_collate(batch) if self.aligns else super().__call__(batch)


def _mixing_after(batches: Callable[[PrefetchLoader], Iterator[Any]]) -> Callable[[PrefetchLoader], Iterator[Any]]:
    """``PrefetchLoader.__iter__`` that mixes in the main process: ``mixup_enabled`` never reaches running workers."""

    @functools.wraps(batches)
    def wrapped(loader: PrefetchLoader) -> Iterator[Any]:
        collate: Any = loader.loader.collate_fn
        if _current is None or not getattr(collate, "aligns", False):
            yield from batches(loader)
            return
        for images, labels in batches(loader):
            yield _current.mix(collate, images, labels)

    return wrapped


def _then(call: Callable[..., Any], action: Callable[..., None]) -> Callable[..., Any]:
    """``call``, then ``action(result, *its arguments)``."""

    @functools.wraps(call)
    def wrapped(*args: Any, **options: Any) -> Any:
        result = call(*args, **options)
        action(result, *args, **options)
        return result

    return wrapped


@contextmanager
def patched(run: ScriptRun) -> Iterator[None]:
    """Let a script's parser, model, batches and resumed checkpoints come by ``run``."""
    global _current

    def resumed(_: Any, model: Any, checkpoint_path: str, *args: Any, **options: Any) -> None:
        run.resume(checkpoint_path)

    def initialised(_: Any, args: argparse.Namespace) -> None:
        run.take_arguments(args)

    def created(model: Any, *_: Any, **__: Any) -> None:
        run.take_model(model)

    wrappers: dict[str, Callable[[Any], Any]] = {
        "argparse._ActionsContainer.add_argument": lambda call: accepting_alignmix(call, run.request),
        "timm.utils.init_distributed_device": lambda call: _then(call, initialised),
        "timm.create_model": lambda call: _then(call, created),
        "timm.models.create_model": lambda call: _then(call, created),
        "timm.data.Mixup": lambda _: AlignMixup,
        "timm.data.mixup.Mixup": lambda _: AlignMixup,
        "timm.data.FastCollateMixup": lambda _: AlignMixCollate,
        "timm.data.mixup.FastCollateMixup": lambda _: AlignMixCollate,
        "timm.data.loader.PrefetchLoader.__iter__": _mixing_after,
        "timm.models.resume_checkpoint": lambda call: _then(call, resumed),
    }
    if _has_task_checkpoints():
        wrappers["timm.task.resume_task_checkpoint"] = lambda call: _then(call, resumed)
    with ExitStack() as stack:
        for name, wrapper in wrappers.items():
            path, _, attribute = name.rpartition(".")
            owner = pkgutil.resolve_name(path)
            stack.enter_context(mock.patch.object(owner, attribute, wrapper(getattr(owner, attribute))))
        run.patched = list(wrappers)
        _current = run
        stack.callback(_forget)
        yield


def _has_task_checkpoints() -> bool:
    """timm.task is there since 1.0.23, its checkpoints since 1.0.28."""
    found = importlib.util.find_spec("timm.task") is not None
    return found and hasattr(importlib.import_module("timm.task"), "resume_task_checkpoint")


def _forget() -> None:
    global _current
    _current = None
