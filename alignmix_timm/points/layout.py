"""Feature maps as tokens and back: NCHW, NHWC, and NLC with prefix tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..functional import mix


@dataclass(frozen=True)
class Layout:
    """How a module's output holds the positions of the image.

    Attributes:
        kind: ``NCHW`` [B, C, H, W], ``NHWC`` [B, H, W, C] or ``NLC`` [B, P + H*W, C].
        num_prefix: P, the tokens in front that have no position (class, distillation, register tokens).
    """

    kind: Literal["NCHW", "NHWC", "NLC"]
    num_prefix: int = 0

    def split(self, feats: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take a map apart into position tokens [B, N, D] and prefix tokens [B, P, D] (None where there are none).

        Raises:
            ValueError: not a map of this layout, or fewer than two positions, which leaves nothing to align.
        """
        if feats.ndim != (3 if self.kind == "NLC" else 4):
            raise ValueError(f"features must be a {self.kind} map, got shape {tuple(feats.shape)}.")
        prefix = None
        if self.kind == "NCHW":
            tokens = feats.flatten(2).mT
        elif self.kind == "NHWC":
            tokens = feats.flatten(1, 2)
        else:
            tokens = feats[:, self.num_prefix :]
            prefix = feats[:, : self.num_prefix] if self.num_prefix else None
        if tokens.shape[1] < 2:
            raise ValueError(f"features must have at least 2 spatial positions, got shape {tuple(feats.shape)}.")
        return tokens, prefix

    def join(self, tokens: Tensor, prefix: Tensor | None, like: Tensor) -> Tensor:
        """Put a map together again, with the shape, dtype and memory format of ``like``."""
        if self.kind == "NCHW":
            feats = tokens.mT.reshape(like.shape)
            channels_last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
            feats = feats.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        elif prefix is not None:
            feats = torch.cat([prefix, tokens], 1)
        else:
            feats = tokens.reshape(like.shape)
        return feats.to(like.dtype)


def mix_maps(
    layout: Layout, feats: Tensor, partners: Tensor, lam: Tensor | float, move: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Mix maps of one layout: ``lam * feats + (1 - lam) * moved partners``.

    Args:
        layout: Of both maps.
        feats, partners: Maps of the same shape.
        lam: [B], or one value for all.
        move: ``move(tokens, partner_tokens)`` returns the partners' position tokens, moved. Prefix tokens have no
            position and are only mixed.
    """
    tokens, prefix = layout.split(feats)
    partner_tokens, partner_prefix = layout.split(partners)
    mixed = mix(tokens, move(tokens, partner_tokens), lam)
    if prefix is not None and partner_prefix is not None:
        prefix = mix(prefix, partner_prefix, lam)
    return layout.join(mixed, prefix, like=feats)
