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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tables import measured, spread

from alignmix_timm.alignment import Assignment
from alignmix_timm.training.config import TrainConfig, parse_config

MODES = {"x": ["input"], "A": ["feat", "feat_swap"], "e": ["embed"]}


@dataclass(frozen=True)
class Row:
    """A row of the table: its options, and the paper's accuracies in percent, unaligned and aligned."""

    method: str
    layers: str
    paper: tuple[float | None, float | None]
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def config(self, base: TrainConfig, aligned: bool, seed: int) -> TrainConfig:
        """Options of one run."""
        modes = [mode for layer in self.layers.replace("E", "e").split(",") for mode in MODES.get(layer, [])]
        tensor = "E" in self.layers
        size = "".join(f"-{name}{value}" for name, value in self.options.items() if name == "grid")
        name = f"{self.method}-{self.layers.replace(',', '')}{size}-{'aligned' if aligned else 'unaligned'}-{seed}"
        options = {
            **self.options,
            "mixers": ["alignmix"] if modes else ["none"],
            "modes": modes or base.modes,
            "method": self.method if modes else "alignmix",
            "embedding": "tensor" if tensor else "flatten",
            "align_embedding": tensor and aligned,
            "model_args": {**base.model_args, **self.options.get("model_args", {})},
        }
        output = f"{base.output}/{name}"
        assignment: Assignment = "transport" if aligned else "none"
        return replace(base, **options, assignment=assignment, seed=seed, output=output, resume="auto")


POOLED = {"grid": 2, "feature_module": "features"}  # by average pooling
FINE = {"grid": 8, "model_args": {"last_stride": 1}}  # no downsampling in the last stage
ROWS = [
    Row("baseline", "", (76.76, None)),
    Row("alignmix", "x,e", (80.81, None)),
    Row("alignmix", "x,A", (80.34, 81.61)),
    Row("alignmix", "x,A,E", (80.46, 81.36)),
    Row("alignmix", "x,A,e", (80.33, 81.92)),
    Row("alignmix_ae", "x,e", (81.92, None)),
    Row("alignmix_ae", "x,A", (81.78, 81.85)),
    Row("alignmix_ae", "x,E", (80.80, 81.54)),
    Row("alignmix_ae", "x,A,e", (81.61, 82.18)),
    Row("alignmix_ae", "x,A,e", (81.47, 81.20), POOLED, "x, A 2x2, e"),
    Row("alignmix_ae", "x,A,e", (80.49, 82.20), FINE, "x, A 8x8, e"),
    Row("alignmix_vae", "x,e", (81.81, None), label="x, (mu, sigma)"),
    Row("alignmix_vae", "x,A", (81.35, 81.85)),
    Row("alignmix_vae", "x,E", (80.45, 81.10), label="x, (M, Sigma)"),
    Row("alignmix_vae", "x,A,e", (81.00, 81.89), label="x, A, (mu, sigma)"),
]
METHODS = list(dict.fromkeys(row.method for row in ROWS))


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
    rows = [row for row in ROWS if row.method in args.methods]
    found: dict[tuple[int, bool], list[float]] = {}
    for seed in args.seeds:  # seed by seed, so that a table of all rows is there early
        for index, row in enumerate(rows):
            for aligned, paper in zip((False, True), row.paper, strict=True):
                if paper is not None:
                    found.setdefault((index, aligned), []).append(measured(row.config(base, aligned, seed))["top1"])
    images = base.max_train_samples or "all"
    print(f"\n{base.model} {base.model_args}, {images} training images, {base.epochs} epochs, seeds {args.seeds}")
    print("Top-1 accuracy in percent. The paper: PreActResNet-18, CIFAR-100, 2,000 epochs.")
    print("\n| method | layers | unaligned | aligned | difference | paper, unaligned | paper, aligned |")
    print("|---|---|---|---|---|---|---|")
    for index, row in enumerate(rows):
        both = found[index, False], found.get((index, True), [])
        differences = [after - before for before, after in zip(*both, strict=False)]  # seed by seed
        ours = [spread(values) if values else "" for values in (*both, differences)]
        papers = ["" if paper is None else f"{paper:.2f}" for paper in row.paper]
        print(f"| {row.method} | {row.label or row.layers.replace(',', ', ')} | {' | '.join(ours + papers)} |")


if __name__ == "__main__":
    main()
