"""The hooks on the modules of a network: where they are, and whether these modules are still in the network."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..points import MixingPoint

_SCRIPTING = "__prepare_scriptable__"  # torch.jit.script calls it, if a module has it


class HookedModules:
    """Puts hooks on the modules of a mixing point, and on further layers, and removes them.

    Args:
        network: The network.
        after_layer: Forward hook with the layer as its first argument.
        after_features: Forward hook on the feature module.
        before_classifier: Forward pre-hook on each classifier.
    """

    def __init__(
        self,
        network: nn.Module,
        after_layer: Callable[..., Any],
        after_features: Callable[..., Any],
        before_classifier: Callable[..., Any],
    ) -> None:
        self.network = network
        self._after_layer, self._after_features = after_layer, after_features
        self._before_classifier = before_classifier
        self._modules: dict[str, nn.Module] = {}
        self._handles: list[RemovableHandle] = []

    def hook(self, point: MixingPoint, layers: Mapping[str | int, str]) -> None:
        """Hook the modules of the point and of the layers, given by their names; hooks there already stay."""
        names = list(dict.fromkeys((*layers.values(), *point.modules)))
        if list(self._modules) == names:
            return
        self.remove()
        self._modules = {name: self.network.get_submodule(name) for name in names}
        for layer, name in layers.items():
            hook = functools.partial(self._after_layer, layer)
            self._handles.append(self._modules[name].register_forward_hook(hook))
        self._handles.append(self._modules[point.feature_module].register_forward_hook(self._after_features))
        for name in point.classifiers:
            self._handles.append(self._modules[name].register_forward_pre_hook(self._before_classifier))
        for module in self._modules.values():
            vars(module)[_SCRIPTING] = _refuse_scripting

    def remove(self) -> None:
        """Remove every hook."""
        while self._handles:
            self._handles.pop().remove()
        for module in self._modules.values():
            vars(module).pop(_SCRIPTING, None)
        self._modules = {}

    def stale(self) -> bool:
        """Whether nothing is hooked, or no longer what the network runs."""
        return not self._modules or bool(self.replaced())

    def replaced(self) -> list[str]:
        """Names of hooked modules in whose place the network has another one now, or none."""
        return [name for name, module in self._modules.items() if _submodule(self.network, name) is not module]


def _refuse_scripting() -> NoReturn:
    raise RuntimeError("torch.jit.script cannot compile the hooks of AlignMix: detach() the model first.")


def _submodule(network: nn.Module, name: str) -> nn.Module | None:
    """The module of this name; wrappers that pass attributes on to what they wrap do not hide that they are there."""
    module: nn.Module | None = network
    for part in name.split("."):
        module = None if module is None else module._modules.get(part)
    return module
