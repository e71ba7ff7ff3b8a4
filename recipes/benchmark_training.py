"""Time of a training step: the engine against a loop of timm's parts as in its train.py, and AlignMix against none.

With a checkout of timm also the time of an epoch in whole processes, of the engine and of its train.py.

    python recipes/benchmark_training.py
    python recipes/benchmark_training.py --model resnet18 --blocks 15
    python recipes/benchmark_training.py --model resnet18 --batch-size 16 --workers 2 --blocks 0 --timm DIR
    python recipes/benchmark_training.py --batch-size 128 --steps 10 --precision bf16 --compile        # on a GPU

Blocks of steps alternate between the variants; ratios are taken within a block, and printed with their median and
interquartile range. Model, optimizer, images on disk, augmentation, batches, workers and threads are the same for all.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from whole_runs import epoch_times

from alignmix_timm import MODES
from alignmix_timm.mixers import Mixer
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.mixing import build_mixer
from alignmix_timm.training.run import Run
from alignmix_timm.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1, help="steps in a block")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--timm", type=Path, help="checkout of timm, whose train.py is run")
    parser.add_argument("--runs", type=int, default=7, help="runs of each in whole processes, which alternate")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of such a run; the first is not timed")
    parser.add_argument("--images", type=int, default=512, help="training images of such a run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.blocks:
            count = args.batch_size * (args.blocks + 2) * (args.steps + 1)
            write_images(Path(folder) / "images", count, args.image_size)
            report(measure(args, Path(folder)), args)
        if args.timm is None:
            print("\nThe real train.py is left out: pass --timm with a checkout of timm.")
            return
        write_images(Path(folder) / "photos", args.images, 320)
        write_images(Path(folder) / "photos", args.images // 8, 320, "validation")
        times = epoch_times(args, args.timm, Path(folder) / "photos", Path(folder) / "runs")
    print("\n| ratio | median | interquartile range | bound | |\n|---|---|---|---|---|")
    line("an epoch of the engine / of train.py", times["engine"], times["train.py"], 1.02)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of a step in each block, by variant."""
    config = TrainConfig(
        data=str(folder / "images"),
        output=str(folder / "run"),
        model=args.model,
        img_size=args.image_size,
        batch_size=args.batch_size,
        workers=args.workers,
        epochs=10_000,
        mixed_precision=args.precision,
        compile=args.compile,
    )
    engine = Run(config)
    trainer = Trainer(engine)
    trainer.start()
    batches = engine.loaders.train(0, engine.total)
    step_of_timm = timm_loop(config, engine)
    variants: dict[str, tuple[Mixer, Callable[[], None]]] = {"timm": (engine.mixer, lambda: next(step_of_timm))}
    for mode in ("none", *MODES):
        options = dict(mixers=["none"]) if mode == "none" else dict(mixers=["alignmix"], modes=[mode])
        variants[mode] = build_mixer(replace(config, **options)), lambda: trainer.train_step(batches)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for block in range(args.blocks + 1):
        for name, (engine.mixer, step) in variants.items():
            step()  # the step after a change of variant is not timed
            wait()
            start = time.perf_counter()
            for _ in range(args.steps):
                step()
            wait()
            if block:
                times[name].append((time.perf_counter() - start) / args.steps)
    return times


def timm_loop(config: TrainConfig, engine: Run) -> Iterator[None]:
    """Training as timm's train.py does it, one step for each ``next``."""
    device = engine.accelerator.device
    net = timm.create_model(config.model, num_classes=len(engine.splits.names)).to(device).train()
    if config.compile:
        net.compile()
    optimizer = timm.optim.create_optimizer_v2(net, config.opt, lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule, _ = timm.scheduler.create_scheduler_v2(optimizer, step_on_epochs=False, updates_per_epoch=100)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.mixed_precision or "no")
    autocast = torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    loader = create_loader(
        create_dataset("", root=config.data),
        engine.data["input_size"],
        config.batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation=engine.data["interpolation"],
        mean=engine.data["mean"],
        std=engine.data["std"],
        num_workers=config.workers or 0,
        device=device,
    )
    updates = 0
    while True:
        for images, labels in loader:
            with autocast:
                loss = torch.nn.functional.cross_entropy(net(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            updates += 1
            schedule.step_update(updates)
            loss.item()
            yield


def report(times: dict[str, list[float]], args: argparse.Namespace) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{args.model}, {args.batch_size} x {args.image_size} x {args.image_size}, {device}, precision {args.precision}"
    )
    print(f"seconds of a step, median of {args.blocks} blocks: ", end="")
    print(", ".join(f"{name} {statistics.median(values):.3f}" for name, values in times.items()))
    mean = [statistics.mean(values) for values in zip(*(times[mode] for mode in MODES), strict=True)]
    print("\n| ratio | median | interquartile range | bound | |\n|---|---|---|---|---|")
    line("engine, no mixing / timm", times["none"], times["timm"], 1.02)
    line("AlignMix, mean of its modes / no mixing", mean, times["none"], 1.03)
    for mode in MODES:
        line(f"{mode} / no mixing", times[mode], times["none"], None)


def line(name: str, values: list[float], base: list[float], bound: float | None) -> None:
    ratios = [value / below for value, below in zip(values, base, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    verdict = "" if bound is None else "holds" if low < bound else "does not hold"
    print(f"| {name} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {bound or ''} | {verdict} |")


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_images(folder: Path, count: int, size: int, split: str = "train") -> None:
    """Smooth random images, as files of two classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / split / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((round(size * 1.2),) * 2, Image.Resampling.BICUBIC).save(path)


if __name__ == "__main__":
    main()
