"""``alignmix-timm``: ``train``, ``evaluate``, ``push``, ``show``; timm's train.py: ``alignmix-timm SCRIPT.py``.

``python -m alignmix_timm`` is the same, as ``accelerate launch -m`` needs it.
"""

import sys

from . import timm_train

_TRAIN = """Train any timm model on any image dataset with AlignMix.

    alignmix-timm train --data path/to/folder --model resnet18 --pretrained --lr 0.01 --epochs 20
    alignmix-timm train --data path/to/folder --output runs/first --resume auto
    alignmix-timm train --eval-only runs/first/best
    accelerate launch -m alignmix_timm train --data path/to/folder     # all GPUs of this machine

The folder of a run holds metrics.jsonl, curves.png, reliability.png, the checkpoints, the links last and best to two of
them, and model/, the weights of the best evaluation, which plain timm loads.
"""


def main() -> None:
    """Run what the first argument names.

    Raises:
        SystemExit: see :func:`alignmix_timm.training.main.main`, :func:`alignmix_timm.suite.command.main`,
            :func:`alignmix_timm.publishing.push.main`, :func:`alignmix_timm.points.show.main` and
            :func:`alignmix_timm.timm_train.main`.
    """
    command, arguments = sys.argv[1:2], sys.argv[2:]
    if command == ["train"]:
        from .training.main import main as train  # the other commands need none of it

        train(arguments, description=_TRAIN, prog="alignmix-timm train")
    elif command == ["evaluate"]:
        from .suite.command import main as evaluate

        evaluate(arguments)
    elif command == ["push"]:
        from .publishing.push import main as push

        push(arguments)
    elif command == ["show"]:
        from .points.show import main as show

        show(arguments)
    else:
        timm_train.main()


if __name__ == "__main__":
    main()
