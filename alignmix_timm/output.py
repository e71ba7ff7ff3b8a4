"""What a wrapped model returns."""

from collections.abc import Mapping
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

_NAMES = ("loss", "logits", "targets")


class AlignMixOutput(dict[str, Tensor]):
    """Loss, logits and targets: by attribute, by name, or by index in this order; what is absent is left out.

    Like transformers' ``ModelOutput`` it is a dictionary: iterate over ``to_tuple()``. In eval mode without labels it
    holds the logits alone, so that the Hugging Face Trainer can predict.

    Attributes:
        loss: Of the mixed batch in training, of the batch itself in eval; None without labels.
        logits: [B, C]; None from an autoencoder in mode ``clean``, which does not classify.
        targets: The dense targets that belong to the logits, mixed as they are, [B, C]: for a loss outside the wrapper.
            In training only; None without labels.
    """

    def __init__(self, items: Mapping[str, Tensor] | Any = (), **named: Tensor | None) -> None:
        super().__init__(items)
        self.update({name: value for name, value in named.items() if value is not None})

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Tensor) -> None:
        getattr(self, name)  # AttributeError, if there is none of this name
        self[name] = value

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Tensor, ...]:
        """What is there, in the order loss, logits, targets."""
        return tuple(self[name] for name in _NAMES if name in self)


def _flatten(output: AlignMixOutput) -> tuple[list[Tensor], list[str]]:
    return list(output.values()), list(output)


def _unflatten(values: Any, names: Any) -> AlignMixOutput:
    return AlignMixOutput(zip(names, values, strict=True))


# DDP and FSDP look for the tensors of an output by this registry.
pytree.register_pytree_node(
    AlignMixOutput, _flatten, _unflatten, serialized_type_name=f"{AlignMixOutput.__module__}.{AlignMixOutput.__name__}"
)
