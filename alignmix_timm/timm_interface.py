"""What timm's tools and the Hugging Face Trainer ask of a model, answered by a wrapper for the network inside it.

timm's tools ask for its config and layers, and choose parameters by name: for weight decay, and for learning rates that
decay from layer to layer. Others find the parts of a model by the names of its state dict.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from timm.optim import auto_group_layers
from torch import Tensor, nn
from typing_extensions import Self

_OF_THE_NETWORK = frozenset(
    (
        *("default_cfg", "pretrained_cfg", "pretrained_model_args", "_model_args", "_traits", "feature_info"),
        *("num_classes", "num_features", "head_hidden_size", "global_pool", "num_prefix_tokens", "embed_dim"),
        *("get_classifier", "reset_classifier", "set_grad_checkpointing", "grad_checkpointing", "set_input_size"),
        *("forward_features", "forward_head", "forward_intermediates", "get_intermediate_layers"),
    )
)
# Where torch keeps the parts of a module, and what else has a say in its state dict.
_PARTS = ("_modules", "_parameters", "_buffers")
_SHARED = (
    *(*_PARTS, "_non_persistent_buffers_set", "_state_dict_pre_hooks", "_state_dict_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


class TimmInterface(nn.Module):
    """A wrapper that timm's tools take for the network inside it: optimizers, transforms, publishing.

    Attributes:
        main_input_name: Name of the images in a batch, for the Hugging Face Trainer.
    """

    main_input_name = "pixel_values"

    @property
    @abstractmethod
    def _network(self) -> nn.Module:
        """The network inside. No part of a timm model has this name: it would hide the part."""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that do not decay, or patterns of names, as the wrapper has them."""
        names: Any = getattr(self._network, "no_weight_decay", set)()
        return {f"{self._prefix()}{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any] | Callable[[str], Any]:
        """Layers of the network by the names that its parameters have in the wrapper; see timm's ``group_parameters``.

        What the wrapper has beside the network belongs to the last layer.
        """
        prefix, matcher = self._prefix(), getattr(self._network, "group_matcher", None)
        if matcher is None:  # timm then counts the parameters
            layers = {f"{prefix}{name}": layer for name, layer in auto_group_layers(self._network).items()}
            return lambda name: layers.get(name, max(layers.values()))
        groups = matcher(coarse=coarse)
        inside = rf"^{re.escape(prefix)}(?!criterion(?:\.|$))"
        if callable(groups):
            return lambda name: groups(name.removeprefix(prefix)) if re.match(inside, name) else math.inf
        return {group: _within(inside, patterns) for group, patterns in groups.items()}

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Recompute activations in the backward pass, as timm does: the Trainer's ``gradient_checkpointing=True``.

        Raises:
            ValueError: options that timm does not have, or a model that cannot recompute.
        """
        given = (activation_checkpointing_kwargs or {}) | options
        usual = {"use_reentrant": False, "every_n_layers": 1, "offload": False}
        if other := {name: value for name, value in given.items() if name not in usual or value != usual[name]}:
            raise ValueError(f"activation checkpointing is timm's, which has no options, got {other}.")
        self._set_checkpointing(True)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """:meth:`activation_checkpointing_enable`, by the name of transformers before 5."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self._set_checkpointing(False)

    def _set_checkpointing(self, enable: bool) -> None:
        network: Any = self._network
        try:
            network.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError) as error:
            name = type(network).__name__
            raise ValueError(f"{name} has no activation checkpointing: set gradient_checkpointing=False.") from error

    def _prefix(self) -> str:
        """What the names of the network's parameters start with."""
        parts = self._network._modules  # a TransparentWrapper stands for the network, with the same parts
        return next(f"{name}." if name else "" for name, module in self.named_modules() if module._modules is parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name) if name in _OF_THE_NETWORK else super().__getattr__(name)


class TransparentWrapper(TimmInterface):
    """A wrapper that has the parts of a network for its own, under the names that they have there.

    The network is no submodule, whose name would stand before the names of its parts: the two have the same
    dictionaries of submodules, parameters and buffers. Tools that go by the names of the state dict find the parts, and
    what they put in the place of one stands there for both. The criterion is trained and moved like a submodule, under
    its name, and not saved.

    Attributes:
        model: The network; it stays the same.
        criterion: The loss, which may be exchanged.

    Raises:
        ValueError: a part of the network has the name ``criterion``.
    """

    model: nn.Module
    criterion: Callable[..., Tensor]

    def __init__(self, model: nn.Module, criterion: Callable[..., Tensor]) -> None:
        super().__init__()
        if "criterion" in model._modules:
            raise ValueError("model must have no submodule named 'criterion', the name of the wrapper's: rename it.")
        self.__dict__.update(model=model, criterion=criterion, **{name: vars(model)[name] for name in _SHARED})

    @property
    def _network(self) -> nn.Module:
        return self.model

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """As of the network; and the criterion, if it is a module."""
        yield from super().named_children()
        if isinstance(self.criterion, nn.Module):
            yield "criterion", self.criterion

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """As of the network, with the wrapper in its place; and the modules of the criterion."""
        memo = set() if memo is None else memo
        yield from super().named_modules(memo, prefix, remove_duplicate)
        if isinstance(self.criterion, nn.Module):
            name = f"{prefix}.criterion" if prefix else "criterion"
            yield from self.criterion.named_modules(memo, name, remove_duplicate)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Put a module in the place of a part of the network, or of the criterion."""
        if name == "criterion" and module is not None:
            self.criterion = module
        else:
            super().add_module(name, module)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of the wrapper, the network and the criterion."""
        self.training = mode
        for module in (self.model, self.criterion):
            if isinstance(module, nn.Module):
                module.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the network."""
        return self.model.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.model._load_from_state_dict(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.model._apply(fn, recurse)
        if recurse and isinstance(self.criterion, nn.Module):
            self.criterion._apply(fn)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "model":
            raise AttributeError(
                f"the network of a wrapper cannot be exchanged: make a new {type(self).__name__} of the other one. To "
                "compile the network, call model.model.compile()."
            )
        if name == "criterion":
            self.__dict__[name] = value
        elif isinstance(value, Tensor | nn.Module):
            setattr(self.model, name, value)  # also tensors that are no parameters, as FSDP and DataParallel set them
        else:
            super().__setattr__(name, value)

    def _replicate_for_data_parallel(self) -> Self:
        replica = super()._replicate_for_data_parallel()
        network = self.model._replicate_for_data_parallel()
        network.__dict__.update({name: vars(replica)[name] for name in _PARTS})
        replica.__dict__["model"] = network
        return replica


def _within(inside: str, patterns: Any) -> Any:
    """One group of a matcher: a regular expression, or pairs of one and an ordinal; timm matches at the start."""
    if patterns is None:
        return None
    if isinstance(patterns, tuple | list):
        return [(_within(inside, pattern), ordinal) for pattern, ordinal in patterns]
    anchored = re.sub(r"(?<![\\\[])\^", "", patterns)  # not in [^...], and not \^
    return f"{inside}(?:{anchored})"
