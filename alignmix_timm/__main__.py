"""``python -m alignmix_timm``: the command ``alignmix-timm``, as ``accelerate launch -m`` needs it."""

from .command import main

if __name__ == "__main__":
    main()
