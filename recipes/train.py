"""Train any timm model on any image dataset with AlignMix.

    accelerate launch --quiet recipes/train.py --data path/to/folder --model resnet18 --pretrained --lr 0.01 --epochs 20
    accelerate launch --quiet recipes/train.py --config recipes/configs/fashion_mnist.yaml --resume auto
    python recipes/train.py --eval-only runs/fashion/best

The folder of a run holds metrics.jsonl, curves.png, reliability.png, the checkpoints, the links last and best to two of
them, and model/, the weights of the best evaluation, which plain timm loads.
"""

from alignmix_timm.training.main import main

if __name__ == "__main__":
    main(description=__doc__)
