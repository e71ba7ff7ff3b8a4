"""The command ``alignmix-timm``: ``alignmix-timm SCRIPT.py ...`` trains, ``alignmix-timm push ...`` publishes."""

import sys

from . import pushing, timm_train


def main() -> None:
    """Run what the first argument names.

    Raises:
        SystemExit: see :func:`alignmix_timm.pushing.main` and :func:`alignmix_timm.timm_train.main`.
    """
    if sys.argv[1:2] == ["push"]:
        pushing.main(sys.argv[2:])
    else:
        timm_train.main()
