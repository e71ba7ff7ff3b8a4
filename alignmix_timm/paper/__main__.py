"""``python -m alignmix_timm.paper``: see :mod:`alignmix_timm.paper.command`."""

from .command import main

if __name__ == "__main__":
    main()
