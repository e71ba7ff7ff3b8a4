"""``python -m alignmix_timm.timm_train train.py ...``, the form that torchrun takes."""

from . import main

if __name__ == "__main__":
    main()
