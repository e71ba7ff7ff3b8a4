"""Train one network with each way of mixing, several seeds, and print error and calibration with their spread.

    python recipes/compare_mixers.py --data path/or/name
    python recipes/compare_mixers.py --data path/or/name --seeds 0 1 2 --mixers none alignmix --epochs 5

Other options are those of train.py, before those of configs/fashion_mnist.yaml. Runs that are finished are not trained
again: stop it when you like, and go on with the same command.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tables import measured, spread

from alignmix_timm.training.config import parse_config
from alignmix_timm.training.options import argument

METHODS = {
    "none": "no mixing",
    "mixup": "input mixup",
    "cutmix": "CutMix",
    "alignmix": "AlignMix",
    "cutout": "Cutout",
    "saliencymix": "SaliencyMix",
    "stylemix": "StyleMix",
    "stylecutmix": "StyleCutMix",
    "puzzlemix": "PuzzleMix",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--mixers", nargs="+", choices=METHODS, default=["none", "mixup", "cutmix", "alignmix"])
    parser.add_argument("--mixer-args", default={}, help="as stylemix.encoder=FILE", **argument(dict[str, Any]))
    args, others = parser.parse_known_args()
    config = parse_config(others, Path(__file__).parent / "configs" / "fashion_mnist.yaml")
    table = {}
    for mixer in args.mixers:
        results = []
        for seed in args.seeds:
            output = f"{config.output}/{mixer}-{seed}"
            own = {name: value for name, value in args.mixer_args.items() if name.partition(".")[0] == mixer}
            run = replace(config, mixers=[mixer], mixer_args=own, seed=seed, output=output, resume="auto")
            results.append(measured(run))
        table[mixer] = results
    images = config.max_train_samples or "all"
    print(f"\n{config.model}, {images} training images, {config.epochs} epochs, seeds {args.seeds}")
    print("\n|  | error % | ECE % | loss |\n|---|---|---|---|")
    for mixer, results in table.items():
        top1, ece, loss = ([result[name] for result in results] for name in ("top1", "ece", "loss"))
        cells = spread([100 - value for value in top1]), spread(ece), spread(loss)
        print(f"| {METHODS[mixer]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
