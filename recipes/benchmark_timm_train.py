"""Time of a step of timm's recipe with ``--mixup alignmix``, against the same with timm's own ``--mixup 0.2``.

    python recipes/benchmark_timm_train.py
    python recipes/benchmark_timm_train.py --model resnet50 --batch-size 8 --blocks 15
    python recipes/benchmark_timm_train.py --model resnet50 --batch-size 128 --steps 20 --workers 8 --amp    # on a GPU

Both loops are put together as in timm's train.py, with its prefetching loader; one was built under the launcher. Blocks
of steps alternate between them; ratios are taken within a block, and printed with their median and interquartile range.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import timm
import timm.data
import torch
from benchmark_training import wait, write_images
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2

from alignmix_timm.timm_train.options import Requested
from alignmix_timm.timm_train.patches import patched
from alignmix_timm.timm_train.run import ScriptRun

BOUND = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps in a block")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--amp", action="store_true", help="bfloat16")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), 4 * args.batch_size, args.image_size)
        times = measure(args, Path(folder))
    report(times, args)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of a step in each block, of timm's mixup and of AlignMix."""
    loops = {"mixup 0.2": training(args, folder, mixup_alpha=0.2)}
    next(loops["mixup 0.2"])  # built before anything is patched
    run = ScriptRun()
    times: dict[str, list[float]] = {"mixup 0.2": [], "alignmix": []}
    with patched(run):
        run.take_arguments(argparse.Namespace(mixup=Requested("alignmix"), seed=0))
        loops["alignmix"] = training(args, folder, mixup_alpha=1.0)
        next(loops["alignmix"])
        for block in range(args.blocks + 1):
            for name, loop in loops.items():
                next(loop)  # the step after a change is not timed
                wait()
                start = time.perf_counter()
                for _ in range(args.steps):
                    next(loop)
                wait()
                if block:
                    times[name].append((time.perf_counter() - start) / args.steps)
        run.finish()
    run.close()
    return times


def training(args: argparse.Namespace, folder: Path, mixup_alpha: float) -> Iterator[None]:
    """The loop of timm's train.py, one step for each ``next``."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = timm.create_model(args.model, num_classes=2).to(device).train()
    optimizer = create_optimizer_v2(net, "sgd", lr=0.01, momentum=0.9)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder)),
        (3, args.image_size, args.image_size),
        args.batch_size,
        is_training=True,
        collate_fn=timm.data.FastCollateMixup(mixup_alpha=mixup_alpha, num_classes=2),
        num_workers=args.workers,
        device=device,
    )
    criterion = SoftTargetCrossEntropy()
    autocast = torch.autocast(device.type, torch.bfloat16) if args.amp else contextlib.nullcontext()
    while True:
        for images, targets in loader:
            with autocast:
                loss = criterion(net(images), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            yield


def report(times: dict[str, list[float]], args: argparse.Namespace) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.model}, {args.batch_size} x {args.image_size} x {args.image_size}, {device}, {args.blocks} blocks")
    print("| `--mixup` | seconds of a step, median | interquartile range |\n|---|---|---|")
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"| {name} | {middle:.4f} | {low:.4f} to {high:.4f} |")
    ratios = [one / base for one, base in zip(times["alignmix"], times["mixup 0.2"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    verdict = "holds" if middle <= BOUND else "does not hold"
    print(f"| ratio | {middle:.3f} | {low:.3f} to {high:.3f} |\n\nAt most {BOUND}: {verdict}.")


if __name__ == "__main__":
    main()
