"""``--mixup alignmix`` for timm's train.py, unmodified: the launcher behind ``alignmix-timm``.

    alignmix-timm train.py DATA --model resnet50 --mixup alignmix
    torchrun --nproc-per-node 8 -m alignmix_timm.timm_train train.py DATA --model resnet50 --mixup alignmix

The script runs as ``__main__`` with a few public names of timm replaced (``patches``). It keeps its random numbers, and
with any other ``--mixup`` does what it does by itself. It never trains without AlignMix where that was asked for.

May import ``dropin``, ``mixers`` and what they import.
"""

from .launch import main

__all__ = ["main"]
