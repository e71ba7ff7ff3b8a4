"""One traced forward pass of a model: what every module received and returned, and what the logits depend on.

The trace runs on a copy without data (fake tensors): no arithmetic, whatever the size of the model, and nothing of the
model is touched: weights, buffers, caches, training flags, random state.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import Node

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


def trace(model: nn.Module, input_size: tuple[int, int, int]) -> Trace:
    """Run a copy of the model, in eval mode, on fake images of ``input_size`` (C, H, W).

    Raises:
        ValueError: the model does not take images of this size; the model's own error is its cause.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    nodes: dict[str, Node | None] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            for tensors, records in ((tensors_of(args), inputs), (tensors_of(first), outputs)):
                records.pop(name, None)  # a module that runs twice counts where it ran last
                if tensors and (records is inputs or tensors[0] is first):
                    records[name] = tensors[0]
            nodes[name] = outputs[name].grad_fn if name in outputs else None

        return hook

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad():
        fake = _without_data(model).eval()
        for name, module in fake.named_modules():
            module._forward_hooks.clear()  # those of others must not see fake tensors
            module._forward_pre_hooks.clear()
            module.register_forward_hook(record(name))
        image = torch.zeros(BATCH, *input_size, device=device, dtype=dtype, requires_grad=True)
        try:
            logits = tensors_of(fake(image))
        except Exception as error:
            raise ValueError(
                f"the model does not run on images of size {tuple(input_size)}: pass input_size=(C, H, W) of the "
                f"images in use. {error}"
            ) from error
    return Trace(inputs, outputs, nodes, logits, image)


def _without_data(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers hold no data; call it in a fake tensor mode."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer)
    return copy.deepcopy(model, memo)


def tensors_of(value: Any) -> list[Tensor]:
    """The floating-point tensors in a module's input or output: a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []
