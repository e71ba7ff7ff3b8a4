"""The command ``alignmix-timm``: ``alignmix-timm SCRIPT.py ...`` trains, ``alignmix-timm push ...`` publishes."""

import sys

from . import timm_train
from .publishing import push


def main() -> None:
    """Run what the first argument names.

    Raises:
        SystemExit: see :func:`alignmix_timm.publishing.push.main` and :func:`alignmix_timm.timm_train.main`.
    """
    if sys.argv[1:2] == ["push"]:
        push.main(sys.argv[2:])
    else:
        timm_train.main()


if __name__ == "__main__":
    main()
