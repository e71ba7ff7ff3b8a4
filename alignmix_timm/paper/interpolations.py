"""Images decoded from mixed feature tensors, with and without alignment (AlignMix, section 3.3 and figure 3)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional import align, mix
from ..networks.autoencoder import Autoencoder
from ..points.layout import Layout

_NCHW = Layout("NCHW")


class Interpolations(NamedTuple):
    """Decoded images, [L, B, C, S, S] in [-1, 1], for each of L values of lam: without and with alignment."""

    unaligned: Tensor
    aligned: Tensor


@torch.no_grad()
def interpolate(model: Autoencoder, first: Tensor, second: Tensor, lams: Sequence[float]) -> Interpolations:
    """Mix the feature tensors A of two batches, position by position or aligned (eq. 12), and decode them.

    The aligned images keep the positions of ``first``. Equation 13 is ``interpolate(model, second, first, lams)``. The
    alignment is the full plan, with epsilon, num_iters and cost_scale of the model.

    Args:
        model: In eval mode.
        first, second: Normalised images, [B, C, S, S].
        lams: Shares of ``first`` in [0, 1]; at 1 both are the reconstruction of ``first``, and at 0 the unaligned is
            that of ``second``.

    Raises:
        ValueError: the model is in training mode, in which batch norm would change its statistics.
    """
    if model.training:
        raise ValueError("model must be in eval mode: call model.eval() first.")
    feats, partners = model.net.features(first), model.net.features(second)
    tokens, _ = _NCHW.split(feats)
    partner_tokens, _ = _NCHW.split(partners)
    transport = model.hooks.alignment.transport(tokens, partner_tokens)
    aligned = _NCHW.join(align(partner_tokens, transport.assignment), None, like=partners)
    return Interpolations(
        *(torch.stack([model.decode(mix(feats, moved, lam)) for lam in lams]) for moved in (partners, aligned))
    )
