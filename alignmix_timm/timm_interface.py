"""What timm's tools and the Hugging Face Trainer ask of a model, answered by a wrapper for the network inside it.

A wrapper's parameters have longer names than the network's, and timm chooses parameters by name: for weight decay, and
for learning rates that decay from layer to layer.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from timm.optim import auto_group_layers
from torch import nn

_OF_THE_NETWORK = frozenset(
    (
        *("default_cfg", "pretrained_cfg", "pretrained_model_args", "_model_args", "_traits", "feature_info"),
        *("num_classes", "num_features", "head_hidden_size", "global_pool", "num_prefix_tokens", "embed_dim"),
        *("get_classifier", "reset_classifier", "set_grad_checkpointing", "grad_checkpointing", "set_input_size"),
        *("forward_features", "forward_head", "forward_intermediates", "get_intermediate_layers"),
    )
)


class TimmInterface(nn.Module):
    """A wrapper that timm's tools take for the network inside it: optimizers, transforms, publishing.

    Attributes:
        main_input_name: Name of the images in a batch, for the Hugging Face Trainer.
    """

    main_input_name = "pixel_values"

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network inside."""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that do not decay, or patterns of names, as the wrapper has them."""
        names: Any = getattr(self.network, "no_weight_decay", set)()
        return {f"{self._prefix()}{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any] | Callable[[str], Any]:
        """Layers of the network by the names that its parameters have in the wrapper; see timm's ``group_parameters``.

        What the wrapper has beside the network belongs to the last layer.
        """
        prefix, matcher = self._prefix(), getattr(self.network, "group_matcher", None)
        if matcher is None:  # timm then counts the parameters
            layers = {f"{prefix}{name}": layer for name, layer in auto_group_layers(self.network).items()}
            return lambda name: layers.get(name, max(layers.values()))
        groups = matcher(coarse=coarse)
        if callable(groups):
            return lambda name: groups(name.removeprefix(prefix)) if name.startswith(prefix) else math.inf
        return {group: _with_prefix(prefix, patterns) for group, patterns in groups.items()}

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
        network: Any = self.network
        try:
            network.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError) as error:
            name = type(network).__name__
            raise ValueError(f"{name} has no activation checkpointing: set gradient_checkpointing=False.") from error

    def _prefix(self) -> str:
        """What the names of the network's parameters start with."""
        network = self.network
        return next(f"{name}." for name, module in self.named_modules() if module is network)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name) if name in _OF_THE_NETWORK else super().__getattr__(name)


def _with_prefix(prefix: str, patterns: Any) -> Any:
    """One group of a matcher: a regular expression, or pairs of one and an ordinal; timm matches at the start."""
    if patterns is None:
        return None
    if isinstance(patterns, tuple | list):
        return [(_with_prefix(prefix, pattern), ordinal) for pattern, ordinal in patterns]
    anchored = re.sub(r"(?<![\\\[])\^", "", patterns)  # not in [^...], and not \^
    return f"^{re.escape(prefix)}(?:{anchored})"
