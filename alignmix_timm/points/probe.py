"""One traced forward pass of a model: what every module received and returned, and what the logits depend on.

The trace runs on a copy without data (fake tensors): no arithmetic, whatever the size of the model, and nothing of the
model is touched: weights, buffers, caches, training flags, random state.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

from .copies import copy_without_hooks, wrap_call

ImageSize = tuple[int, int, int]  # (C, H, W)

BATCH = 3  # a traced output that starts with this size is taken to hold one item per image


@dataclass(frozen=True)
class Trace:
    """A traced forward pass. Modules are in the order in which they finished.

    Attributes:
        inputs: First input tensor of each module that ran, by module name.
        outputs: Output of each module that ran, by module name: a tensor, or the first of a tuple.
        nodes: The autograd node that made that output, before anything changed it in place.
        logits: Output tensors of the model.
        image: Input of the model.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    nodes: dict[str, Node | None]
    logits: list[Tensor]
    image: Tensor

    def dominates(self, name: str) -> bool:
        """Whether every path from the image to the logits runs through the output of this module."""
        output = self.nodes[name]
        if output is None:
            return False
        stack: list[Node] = [tensor.grad_fn for tensor in self.logits if tensor.grad_fn is not None]
        seen = {output}
        reached = False
        while stack:
            node = stack.pop()
            reached |= node is output
            if node in seen:
                continue
            seen.add(node)
            if getattr(node, "variable", None) is self.image:
                return False
            stack.extend(parent for parent, _ in node.next_functions if parent is not None)
        return reached


def trace(model: nn.Module, input_size: ImageSize) -> Trace:
    """Run a copy of the model, in eval mode, on fake images of ``input_size`` (C, H, W).

    Raises:
        ValueError: the model does not take images of this size; the model's own error is its cause.
    """
    traced, error = _run(model, input_size)
    if error is not None:
        raise ValueError(
            f"the model does not run on images of size {tuple(input_size)}: pass input_size=(C, H, W) of the "
            f"images in use. {error}"
        ) from error
    return traced


def trace_resized(model: nn.Module, input_size: ImageSize) -> Trace:
    """As :func:`trace`, on images for which the model may not be built, as far as it runs.

    Where it has timm's ``set_input_size``, the copy is set to this size first.
    """
    return _run(model, input_size, resize=True)[0]


def trace_training(model: nn.Module, input_size: ImageSize) -> Trace:
    """As :func:`trace`, in training mode, as far as the model runs; batch norm waits for no other process."""
    return _run(model, input_size, training=True)[0]


def _run(
    model: nn.Module, input_size: ImageSize, training: bool = False, resize: bool = False
) -> tuple[Trace, Exception | None]:
    """The trace up to an error of the model, and the error."""
    recorder = _Recorder()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    logits, failure = [], None
    with _quietly(), FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode(False), torch.enable_grad():
        fake = copy_without_hooks(model, _without_data).train(training)
        for name, module in fake.named_modules():
            wrap_call(module, functools.partial(recorder.call, name))
            if isinstance(module, _BatchNorm):
                module.eval()
        image = torch.zeros(BATCH, *input_size, device=device, dtype=dtype, requires_grad=True)
        set_input_size: Any = getattr(fake, "set_input_size", None)
        try:
            if resize and set_input_size is not None:
                set_input_size(img_size=input_size[1:])
            logits = tensors_of(fake(image))
        except Exception as error:  # models raise many kinds
            failure = error
    return Trace(recorder.inputs, recorder.outputs, recorder.nodes, logits, image), failure


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's log of operations that fail on fake tensors."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Recorder:
    """What the modules of a copy received and returned."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.nodes: dict[str, Node | None] = {}

    def call(self, name: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a module and record it."""
        output = call(*args, **kwargs)
        self._record(name, args, output)
        return output

    def _record(self, name: str, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        for tensors, records in ((tensors_of(args), self.inputs), (tensors_of(first), self.outputs)):
            records.pop(name, None)  # a module that runs twice counts where it ran last
            if tensors and (records is self.inputs or tensors[0] is first):
                records[name] = tensors[0]
        self.nodes[name] = self.outputs[name].grad_fn if name in self.outputs else None


def _without_data(tensor: Tensor) -> Tensor:
    """In a fake tensor mode: a tensor of the same geometry, whole where the tensor is sharded."""
    if tensor.layout is not torch.strided:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def tensors_of(value: Any) -> list[Tensor]:
    """The floating-point tensors in a module's input or output: a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []
