"""The hooks that mix inside a timm model: where they are, what a forward pass mixes, and who decides.

May import ``alignment``, ``functional``, ``params``, ``points`` and ``sinkhorn``.
"""

from .controller import MixingHooks

__all__ = ["MixingHooks"]
