"""The paper's ablation (Table 8): layers that are mixed, alignment, architecture, resolution; its column beside ours.

    python recipes/ablation.py --data path/or/name
    python recipes/ablation.py --data path/or/name --methods alignmix_ae --seeds 0 1 2 --epochs 5 --output runs/short

Other options are those of train.py, before those of configs/ablation.yaml. Runs that are finished are not trained
again: stop it when you like, and go on with the same command; for other options, choose another --output. Several
processes may share the work, each with seeds of its own.

x is the image, A the feature tensor (4 x 4 if nothing is said), e a vector embedding, E a tensor, (mu, sigma) and (M,
Sigma) the same of the variational autoencoder. As in the paper each case is as frequent as any other, and A counts
twice, aligned in one direction or the other; without alignment A keeps that weight.
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

from tables import measured, spread

from alignmix_timm.paper.methods import ALIGNMENT, ablated
from alignmix_timm.paper.numbers import paper_tables
from alignmix_timm.training.config import TrainConfig, parse_config

ROWS = {row: paper for row, paper in paper_tables()["table8"].rows.items() if row not in ("manifold", "stylecutmix")}
METHODS = list(dict.fromkeys(row.partition(" ")[0] for row in ROWS))


def config_of(base: TrainConfig, row: str, aligned: bool, seed: int) -> TrainConfig:
    """Options of one run; the alignment's own are those of the command, not the paper's."""
    options = {name: value for name, value in ablated(row, aligned).options.items() if name not in ALIGNMENT}
    options["model_args"] = {**base.model_args, **options.get("model_args", {})}
    name = re.sub(r"\W+", "-", f"{row} {'aligned' if aligned else 'unaligned'} {seed}")
    return replace(base, **options, seed=seed, output=f"{base.output}/{name}", resume="auto")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    args, others = parser.parse_known_args()
    base = parse_config(others, Path(__file__).parent / "configs" / "ablation.yaml")
    if base.dry_run or base.eval_only:
        parser.error("--dry-run and --eval-only are for train.py")
    rows = {row: paper for row, paper in ROWS.items() if row.partition(" ")[0] in args.methods}
    found: dict[tuple[str, bool], list[float]] = {}
    for seed in args.seeds:  # seed by seed, so that a table of all rows is there early
        for row, paper in rows.items():
            for aligned, printed in zip((False, True), paper, strict=True):
                if printed is not None:
                    found.setdefault((row, aligned), []).append(measured(config_of(base, row, aligned, seed))["top1"])
    images = base.max_train_samples or "all"
    print(f"\n{base.model} {base.model_args}, {images} training images, {base.epochs} epochs, seeds {args.seeds}")
    print("Top-1 accuracy in percent. The paper: PreActResNet-18, CIFAR-100, 2,000 epochs.")
    print("\n| method | layers | unaligned | aligned | difference | paper, unaligned | paper, aligned |")
    print("|---|---|---|---|---|---|---|")
    for row, paper in rows.items():
        both = found[row, False], found.get((row, True), [])
        differences = [after - before for before, after in zip(*both, strict=False)]  # seed by seed
        ours = [spread(values) if values else "" for values in (*both, differences)]
        papers = ["" if printed is None else f"{printed:.2f}" for printed in paper]
        method, _, layers = row.partition(" ")
        print(f"| {method} | {layers} | {' | '.join(ours + papers)} |")


if __name__ == "__main__":
    main()
