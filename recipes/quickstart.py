"""Train a small timm model with AlignMix, and the same model without mixing, on real images.

    accelerate launch --quiet recipes/quickstart.py
    accelerate launch --quiet recipes/quickstart.py --train-size 10000 --augment --epochs 12 --out runs/augmented
    accelerate launch --quiet recipes/quickstart.py --data path/or/name --model resnet18 --image-size 64 --out runs/mine

By default it trains on 2,500 images without any other augmentation: few enough for a network to learn them by heart,
which is what mixing is there to prevent. With all images and a short training, expect no gain.

Prints a table of both, saves the AlignMix model as a folder that plain timm loads, and draws two pictures.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pictures
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed, tqdm
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alignmix_timm import AlignMixCollator, AlignMixModel
from alignmix_timm.evaluation.calibration import expected_calibration_error
from alignmix_timm.paper.images import Images, load
from alignmix_timm.points import unannounced
from alignmix_timm.publishing.provenance import Provenance, find_dataset
from alignmix_timm.publishing.save import load_for_timm, save_for_timm
from alignmix_timm.training.build import build_model, check_model
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.console import wrapped
from alignmix_timm.training.errors import told_in_a_sentence
from alignmix_timm.training.launch import start_processes
from alignmix_timm.training.option_ranges import check_ranges
from alignmix_timm.training.parsing import OneLineParser
from alignmix_timm.training.run_folder import make_folder

EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist"


def main() -> None:
    args = parse_args()
    with told_in_a_sentence():
        check_ranges(vars(args))
        check_model(args.model)
        check_out(args.out, args.overwrite)
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Train both, and show what came of it.

    Raises:
        ValueError, OSError: the options, the data and the model do not go together.
    """
    accelerator = start_processes()
    train, test, names = load(args.data, args.image_size, args.image_column, args.label_column)
    train = train.subset(args.train_size, args.seed, args.augment)
    check_enough(train, args.batch_size, accelerator.num_processes)
    table, mixing = {}, ""
    for method, prob in (("no mixing", 0.0), ("AlignMix", 1.0)):
        set_seed(args.seed)  # both start from the same weights and see the same images in the same order
        start = time.perf_counter()
        net = build_model(TrainConfig(model=args.model, img_size=args.image_size), len(names))
        model = fit(net, train, prob, method, args, accelerator)
        table[method] = {**evaluate(model, test, accelerator), "seconds": time.perf_counter() - start}
        mixing = str(accelerator.unwrap_model(model).hooks.point)
        accelerator.free_memory()
    if not accelerator.is_main_process:
        return
    print_table(table, len(train), args)
    data = {"input_size": train.size, "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    provenance = describe(table["AlignMix"], mixing, len(train), test, args)
    save_for_timm(net, args.out / "model", names, data, provenance=provenance)
    reloaded = load_for_timm(args.out / "model").to(accelerator.device)
    trained, restored = (measure(*predict(one, test, accelerator.device))["top-1 %"] for one in (net, reloaded))
    print(f"Plain timm reloads {args.out / 'model'}: top-1 {restored:.2f} %, as trained {trained:.2f} %.")
    if restored != trained:
        raise SystemExit("The reloaded model has another accuracy than the trained one.")
    with unannounced():
        pictures.draw_pictures(net, train, test, names, args.out, args.seed)
    print(f"To publish it: alignmix-timm push {args.out} USER/NAME")


def check_out(folder: Path, overwrite: bool) -> None:
    """Make the folder; raise ValueError where results could not be written, or would replace others."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} is not empty: pass --overwrite to replace the results in it, or another --out.")
    make_folder("out", folder)


def check_enough(train: Images, batch_size: int, processes: int) -> None:
    """Raise ValueError for too few images for an optimizer step, or to mix."""
    if not 2 <= batch_size <= len(train) // processes:
        raise ValueError(
            f"batch_size must be >= 2, to mix, and at most the training images of a process, got {batch_size} for each "
            f"of {processes} processes and {len(train)} images."
        )


def fit(
    net: Any, train: Images, prob: float, method: str, args: argparse.Namespace, accelerator: Accelerator
) -> nn.Module:
    """Train in place: SGD with Nesterov momentum, one cycle of the learning rate."""
    collator = AlignMixCollator(seed=args.seed, num_classes=net.num_classes, prob=prob)
    loader = DataLoader(train, args.batch_size, shuffle=True, drop_last=True, collate_fn=collator)
    with unannounced():
        model = AlignMixModel(net, input_size=train.size)
    if prob > 0:
        accelerator.print(wrapped(f"AlignMix mixes {model.hooks.point}."))
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps = args.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)
    model.train()
    with tqdm(total=steps * args.batch_size * accelerator.num_processes, unit="img", desc=method) as bar:
        for _ in range(args.epochs):
            for batch in loader:
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                bar.update(args.batch_size * accelerator.num_processes)
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model


def evaluate(model: nn.Module, test: Images, accelerator: Accelerator) -> dict[str, float]:
    """Measure on exactly the rows of the test set, whatever the number of processes."""
    loader = accelerator.prepare(DataLoader(test, 500, collate_fn=AlignMixCollator()))
    logits, labels = [], []
    model.eval()
    with torch.no_grad():
        for batch in loader:
            pair = accelerator.gather_for_metrics((model(**batch).logits, batch["labels"]))
            logits.append(pair[0])
            labels.append(pair[1])
    return measure(torch.cat(logits), torch.cat(labels))


@torch.no_grad()
def predict(net: nn.Module, test: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits and labels of the test set, by a plain timm model."""
    net.eval()
    batches = [net(images.to(device)) for images, _ in DataLoader(test, 500)]
    return torch.cat(batches), test.labels.to(device)


def measure(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracies and calibration error in percent, and the loss."""
    ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return {
        "top-1 %": 100 * ranked[:, 0].double().mean().item(),
        "top-5 %": 100 * ranked.any(1).double().mean().item(),
        "loss": nn.functional.cross_entropy(logits.float(), labels).item(),
        "ECE %": 100 * expected_calibration_error(logits, labels),
    }


def print_table(table: dict[str, dict[str, float]], count: int, args: argparse.Namespace) -> None:
    print(f"\n{args.model}, {count} training images, {args.epochs} epochs, seed {args.seed}")
    columns = list(next(iter(table.values())))
    print(f"{'':12s}" + "".join(f"{column:>10s}" for column in columns))
    for method, row in table.items():
        print(f"{method:12s}" + "".join(f"{row[column]:10.2f}" for column in columns))
    print("One seed: repeat with --seed 1 --out runs/seed-1, and so on, before you believe a difference.\n")


def describe(row: dict[str, float], mixing: str, train: int, test: Images, args: argparse.Namespace) -> Provenance:
    """What the card of the model says, should it be published."""
    data = find_dataset(args.data)
    data.train_rows, data.eval_rows, data.eval_split = train, len(test), test.split
    defaults = vars(parse_args([]))
    options = {name: value for name, value in vars(args).items() if name not in ("data", "out", "overwrite", "seed")}
    usual = args.data == EMBEDDED and all(value == defaults[name] for name, value in options.items())
    return Provenance(
        data,
        results={"top1": row["top-1 %"], "top5": row["top-5 %"], "loss": row["loss"], "ece": row["ECE %"]},
        seed=args.seed,
        mixing=mixing,
        epochs=args.epochs,
        seconds=round(row["seconds"], 1),
        command=f"accelerate launch recipes/quickstart.py --seed {args.seed}" if usual else None,
        options=options,
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    parser.add_argument("--data", default=EMBEDDED, help="name or folder for datasets.load_dataset")
    parser.add_argument("--image-column", help="default: the first column of images")
    parser.add_argument("--label-column", help="default: the first column of class labels")
    parser.add_argument("--model", default="test_resnet", help="any name of timm.list_models()")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--train-size", type=int, default=2500, help="use this many training images, at random")
    parser.add_argument("--augment", action="store_true", help="random crops and flips as well")
    parser.add_argument("--batch-size", type=int, default=64, help="for each process")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("quickstart"), help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are in --out already")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
