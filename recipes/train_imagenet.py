"""Train on ImageNet as in the AlignMix paper: ResNet-50 for 300 epochs, or for 100.

    accelerate launch --quiet recipes/train_imagenet.py --model resnet50 --output runs/resnet50 --resume auto
    accelerate launch --quiet recipes/train_imagenet.py --config recipes/configs/imagenet_resnet50_100.yaml
    accelerate launch --quiet recipes/train_imagenet.py --dry-run

The defaults are configs/imagenet_resnet50_300.yaml; options and files as in train.py.
"""

from pathlib import Path

from alignmix_timm.training.main import main

if __name__ == "__main__":
    main(defaults=Path(__file__).parent / "configs" / "imagenet_resnet50_300.yaml", description=__doc__)
