"""Does the image decoded from aligned features keep the pose of the first image? One row for each kind of image.

    python recipes/measure_pose.py RUN [RUN ...]
    python recipes/measure_pose.py runs/decode-0 runs/decode-1 runs/decode-2 --data path/or/name

RUN is the folder of a run with a decoder, such as configs/decode.yaml makes; several are one training with several
seeds. The metric was fixed before any result was looked at: an image's silhouette is where it is brighter than its own
Otsu threshold, and the table has the intersection over union of the silhouette of the decoded image with those of the
two originals. Pairs are held-out images of different classes, the same for all runs; each image is in one pair. At
lam = 0 every feature comes from the second image, and with alignment the first says where it goes.

In brackets are 95 % bootstrap intervals over pairs; differences are taken pair by pair. For all runs together, each
pair counts with its mean over the runs. So the intervals do not hold the spread from training to training: compare the
runs.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np

from alignmix_timm.evaluation.bootstrap import bootstrap
from alignmix_timm.paper.pairs import held_out_pairs
from alignmix_timm.paper.pose import pose_overlaps, with_differences
from alignmix_timm.training.restore import load_autoencoder, saved_config

LEAST = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run with a decoder, or of a checkpoint")
    parser.add_argument("--data", help="dataset or folder; default that of the run")
    parser.add_argument("--pairs", type=int, default=500, help=f"at least {LEAST}")
    parser.add_argument("--seed", type=int, default=0, help="the pairs follow from it")
    args = parser.parse_args()
    if args.pairs < LEAST:
        parser.error(f"--pairs must be at least {LEAST}, got {args.pairs}")
    try:
        tables = {run: measured(run, args) for run in args.runs}
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"\n{args.pairs} pairs, seed {args.seed}")
    print("\n| run | image | overlap with the first | with the second | first - second |\n|---|---|---|---|---|")
    if len(tables) > 1:
        kinds = next(iter(tables.values()))
        tables["all"] = {kind: np.mean([table[kind] for table in tables.values()], 0) for kind in kinds}
    for run, table in tables.items():
        for kind, values in table.items():
            cells = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in bootstrap(values)]
            print(f"| {run} | {kind} | {' | '.join(cells)} |")


def measured(run: str, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Rows of the table for one run, [pairs, 3]."""
    model, config = load_autoencoder(run), saved_config(run)
    config = replace(config, data=args.data or config.data)
    pairs = held_out_pairs(model.net, config, args.pairs, args.seed)
    print(f"{run}: epsilon {config.epsilon:g}, {config.num_iters} iterations, cost scale {config.cost_scale}")
    return with_differences(pose_overlaps(model, pairs.first, pairs.second))


if __name__ == "__main__":
    main()
