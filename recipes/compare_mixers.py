"""Train one network with each way of mixing, and print error and calibration, and how they differ from no mixing.

    python recipes/compare_mixers.py --data path/or/name
    python recipes/compare_mixers.py --data path/or/name --seeds 0 1 2 3 4 --mixers none alignmix comixup --epochs 5
    python recipes/compare_mixers.py --data path/or/name --mixers none cutmix --mixer-args cutmix.alpha=2

Runs of one seed share images, initial weights, order and augmentation, so that differences are taken seed by seed; what
is printed are means with their 95 % intervals. Other options are those of train.py, before those of
configs/fashion_mnist.yaml. Runs that are finished are not trained again: stop it when you like, and go on with the same
command.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from paired import print_rows

from alignmix_timm.mixers import MIXERS
from alignmix_timm.training.config import TrainConfig, parse_config
from alignmix_timm.training.journal import read_journal
from alignmix_timm.training.main import run
from alignmix_timm.training.option_changes import changes

MEASURES = {"error": "error %", "ece": "ECE %", "loss": "loss"}
COMPARED = {f"{title} - none": (name, "none") for name, title in MEASURES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--mixers", nargs="+", choices=MIXERS, default=["none", "mixup", "cutmix", "alignmix"])
    args, others = parser.parse_known_args()
    options = [*others, "--mixers", *args.mixers]
    config = parse_config(options, Path(__file__).parent / "configs" / "fashion_mnist.yaml")
    runs = [train(config, mixer, seed) for mixer in args.mixers for seed in args.seeds]
    images = config.max_train_samples or "all"
    print(f"\n{config.model}, {images} training images, {config.epochs} epochs, seeds {args.seeds}\n")
    print_rows(runs, dict.fromkeys(args.mixers), MEASURES, COMPARED, counted=False)


def train(config: TrainConfig, mixer: str, seed: int) -> dict[str, Any]:
    """The measures of one run, which is trained if it was not."""
    own = {name: value for name, value in config.mixer_args.items() if name.startswith(f"{mixer}.")}
    output = f"{config.output}/{mixer}-{seed}"
    found = measured(replace(config, mixers=[mixer], mixer_args=own, seed=seed, output=output, resume="auto"))
    return {"arm": mixer, "seed": seed, "error": 100 - found["top1"], "ece": found["ece"], "loss": found["loss"]}


def measured(config: TrainConfig) -> dict[str, float]:
    """The last evaluation of a run; it is trained if it was not, and goes on where it was stopped.

    Raises:
        SystemExit: the run was made with other options, or cannot be made.
    """
    output = Path(config.output)
    if (output / "last").exists() and (other := changes(config, output / "last")):
        sys.exit(f"error: {output} holds a run of other options: {', '.join(other.values())}. Choose another --output.")
    try:
        if not (output / "model").exists():
            run(config)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"error: {output}: {error}")
    return [record for record in read_journal(output / "metrics.jsonl") if record["kind"] == "eval"][-1]


if __name__ == "__main__":
    main()
