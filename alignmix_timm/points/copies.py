"""A copy of a model that runs the forward passes of its modules and nothing else.

``copy.deepcopy`` copies whatever hangs on a model, and fails where that cannot be copied: hooks that own a lock, a file
or a process group, stored activations, modules sharded by FSDP. Here modules, tensors and plain containers are copied,
hooks are left out, and the rest is shared.
"""

import copy
import functools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, set)  # a forward pass may write to these


def copy_without_hooks(model: nn.Module, copy_tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of the model whose calls go straight to ``forward``, past hooks and compiled code; the model is only read.

    Args:
        model: Any module.
        copy_tensor: Makes the copy of each parameter, buffer and other tensor in a module's attributes.
    """
    return _Copier(copy_tensor).copy(model)


def wrap_call(module: nn.Module, wrapper: Callable[..., Any]) -> Callable[[], None]:
    """Have calls of a copied module return ``wrapper(call, *args, **kwargs)``; returns a function that undoes it."""
    before = module._compiled_call_impl
    module._compiled_call_impl = functools.partial(wrapper, before or module._call_impl)

    def undo() -> None:
        module._compiled_call_impl = before

    return undo


class _Copier:
    """Copies each object once, so that what is shared within the model is shared within the copy."""

    def __init__(self, copy_tensor: Callable[[Tensor], Tensor]) -> None:
        self.copy_tensor = copy_tensor
        self.copies: dict[int, Any] = {}

    def copy(self, value: Any) -> Any:
        if id(value) not in self.copies:
            copied = self._copy(value)
            self.copies[id(value)] = copied
        return self.copies[id(value)]

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.jit.ScriptModule):
            return copy.deepcopy(value)  # its attributes are not in Python
        if isinstance(value, nn.Module):
            return self._copy_module(value)
        if isinstance(value, Tensor):
            copied = self.copy_tensor(value)
            return nn.Parameter(copied, value.requires_grad) if isinstance(value, nn.Parameter) else copied
        if type(value) in _CONTAINERS:
            return self._copy_container(value)
        if type(value) is tuple:
            return tuple(self.copy(item) for item in value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):  # a namedtuple
            return type(value)(*(self.copy(item) for item in value))
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self.copy(value.__self__))
        if isinstance(value, functools.partial):
            arguments = {name: self.copy(argument) for name, argument in value.keywords.items()}
            return functools.partial(self.copy(value.func), *map(self.copy, value.args), **arguments)
        return value

    def _copy_module(self, module: nn.Module) -> nn.Module:
        copied = object.__new__(type(module))  # some classes, such as those of FSDP, refuse to be called or copied
        self.copies[id(module)] = copied  # modules may hold each other
        state = vars(copied)
        state.update(vars(nn.Module()))
        hooks = {name for name in state if "hook" in name}
        for name, value in vars(module).items():
            if name not in hooks and name != "_compiled_call_impl":
                state[name] = self.copy(value)
        if compiled := module._modules.get("_orig_mod"):
            state["forward"] = self.copy(compiled)
        state["_compiled_call_impl"] = lambda *args, **kwargs: copied.forward(*args, **kwargs)  # also past global hooks
        return copied

    def _copy_container(self, value: Any) -> Any:
        copied = self.copies[id(value)] = copy.copy(value)  # containers may hold each other, too
        if isinstance(value, set):
            return copied
        for key in value if isinstance(value, dict) else range(len(value)):
            copied[key] = self.copy(value[key])
        return copied
