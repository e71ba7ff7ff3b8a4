"""Time of one data worker for an image: the engine's against that of timm's create_loader with its prefetcher.

    OMP_NUM_THREADS=1 python recipes/benchmark_data.py                          # synthetic photos of 500 x 375
    OMP_NUM_THREADS=1 python recipes/benchmark_data.py --data DIR               # class folders of JPEGs
    OMP_NUM_THREADS=1 python recipes/benchmark_data.py --photos NAME --split S  # photos of a dataset, saved as JPEGs

Measured is what a worker does: it reads, decodes and transforms images, and makes batches of bytes. Both leave the rest
to the device. Both see the same images in the same crops and augmentations; seeding them is part of the
engine's time only. Blocks alternate; ratios are taken within a block, and printed with their median and interquartile
range. Times are those of the processor, so that other processes matter less.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from timm.data import create_dataset, create_loader

from alignmix_timm.points.photos import PhotoData
from alignmix_timm.seeds import Stream, seed_cpu
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.batches import BatchPlan
from alignmix_timm.training.data.dataset import Key, Rows, collate
from alignmix_timm.training.data.loaders import Loaders
from alignmix_timm.training.data.splits import load_splits
from alignmix_timm.training.data.transforms import data_config

# timm fails at magnitude 9 with Pillow 13, by posterizing to no bits.
AUGMENTED: dict[str, Any] = dict(aa="rand-m7-mstd0.5-inc1", reprob=0.25)
BOUND, REDUCED_BOUND = 1.02, 0.85


class Case(NamedTuple):
    """The rows of the engine and the dataset of timm, with the number of each file, and what the ratio may be."""

    ours: Rows
    theirs: Any
    numbers: dict[str, int]
    collate: Callable[[list[Any]], Any]
    bound: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="class folders of JPEGs")
    parser.add_argument("--photos", help="dataset whose photos are saved as JPEGs")
    parser.add_argument("--split", default="train", help="of --photos")
    parser.add_argument("--side", type=int, default=375, help="shorter side of the JPEGs that are written")
    parser.add_argument("--images", type=int, default=256, help="JPEGs that are written")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=4, help="batches in a block")
    parser.add_argument("--blocks", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            write_photos(Path(folder), args)
        cases = make_cases(Path(args.data or folder), args)
        ratios = {name: measure(case, args, name) for name, case in cases.items()}
        report(cases, ratios)
        tell_sizes(cases, args)
        tell_reduction(cases["training"].ours, cases["training, jpeg_scaling"].ours)


def make_cases(folder: Path, args: argparse.Namespace) -> dict[str, Case]:
    """Training, augmented training, evaluation; and training with what only the engine has."""
    plain = TrainConfig(train_dir=str(folder), val_dir=str(folder), img_size=args.image_size, workers=0)
    net = timm.create_model("resnet18")
    data, splits = data_config(net, plain), load_splits(plain)
    theirs = {
        name: timm_loader(folder, data, name != "evaluation", args, **options)
        for name, options in {"training": {}, "augmented training": AUGMENTED, "evaluation": {}}.items()
    }

    def case(name: str, bound: float | None, **options: Any) -> Case:
        config = replace(plain, **options)
        plan = BatchPlan(len(splits.train), args.batch_size, 1, 0)
        loaders = Loaders(config, splits, data, plan, Accelerator(cpu=True))
        rows, dataset = loaders.test if name == "evaluation" else loaders.rows, theirs[name].dataset
        numbers = {path: number for number, (path, _) in enumerate(dataset.reader.samples)}
        return Case(rows, dataset, numbers, theirs[name].loader.collate_fn, bound)

    return {
        "training": case("training", BOUND),
        "augmented training": case("augmented training", BOUND, **AUGMENTED),
        "evaluation": case("evaluation", BOUND),
        "training, jpeg_scaling": case("training", REDUCED_BOUND, jpeg_scaling=True),
        "training, cache_images": case("training", None, cache_images=10_000),
    }


def timm_loader(
    folder: Path,
    data: dict[str, Any],
    training: bool,
    args: argparse.Namespace,
    aa: str | None = None,
    reprob: float = 0,
) -> Any:
    """timm's loader with prefetcher, which leaves the same to the device."""
    return create_loader(
        create_dataset("", root=str(folder)),
        data["input_size"],
        args.batch_size,
        is_training=training,
        re_prob=reprob,
        color_jitter=0.0,
        auto_augment=aa,
        interpolation=data["interpolation"],
        mean=data["mean"],
        std=data["std"],
        crop_pct=data["crop_pct"],
        num_workers=0,
        device=torch.device("cpu"),
    )


def measure(case: Case, args: argparse.Namespace, name: str) -> list[tuple[float, float]]:
    """Seconds for an image in each block, of the engine and of timm."""
    if case.ours.cache is not None:
        ours(case, list(range(len(case.ours))), 0)  # which fills it
    rows = np.random.default_rng(0).permutation(len(case.ours))
    times = []
    for block in range(args.blocks + 1):
        spent = [0.0, 0.0]
        for batch in range(args.batches):
            first = (block * args.batches + batch) * args.batch_size
            chosen = [int(rows[place % len(rows)]) for place in range(first, first + args.batch_size)]
            for side in (0, 1) if (block + batch) % 2 else (1, 0):
                spent[side] += (ours, theirs)[side](case, chosen, block)
        if block:  # the first warms up
            images = args.batches * args.batch_size
            times.append((spent[0] / images, spent[1] / images))
    print(f"{name} is measured.", flush=True)
    return times


def ours(case: Case, rows: list[int], epoch: int) -> float:
    start = time.process_time()
    collate([case.ours[Key(epoch, row)] for row in rows])
    return time.process_time() - start


def theirs(case: Case, rows: list[int], epoch: int) -> float:
    examples, spent = [], 0.0
    for row in rows:
        number = case.numbers[case.ours.rows[row]["image"]["path"]]
        seed_cpu(0, Stream.AUGMENT, epoch, row)
        start = time.process_time()
        examples.append(case.theirs[number])
        spent += time.process_time() - start
    start = time.process_time()
    case.collate(examples)
    return spent + time.process_time() - start


def report(cases: dict[str, Case], times: dict[str, list[tuple[float, float]]]) -> None:
    print("\n| | engine: images/s | timm: images/s | time, engine / timm | interquartile range | bound | |")
    print("|---|---|---|---|---|---|---|")
    for name, blocks in times.items():
        speeds = [statistics.median(1 / block[side] for block in blocks) for side in (0, 1)]
        low, middle, high = statistics.quantiles([engine / timm for engine, timm in blocks], n=4)
        bound = cases[name].bound
        verdict = "" if bound is None else "holds" if middle <= bound else "does not hold"
        spread = f"{low:.3f} to {high:.3f}"
        print(f"| {name} | {speeds[0]:.0f} | {speeds[1]:.0f} | {middle:.3f} | {spread} | {bound or ''} | {verdict} |")


def tell_sizes(cases: dict[str, Case], args: argparse.Namespace) -> None:
    batch = collate([cases["augmented training"].ours[Key(0, row)] for row in range(args.batch_size)])
    found = sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
    floats = 4 * batch["pixel_values"].numel()
    print(f"\nA batch has {found} bytes from worker to process, {found / floats:.4f} of its images as float32.")


def tell_reduction(full: Rows, reduced: Rows) -> None:
    """How decoding at a reduced scale changes the pixels of the crops that it can be used for."""
    differences, changed = [], 0
    for row in range(count := min(len(full), 256)):
        pair = [rows[Key(1, row)]["pixel_values"].float() for rows in (full, reduced)]
        difference = (pair[0] - pair[1]).abs()
        if difference.any():
            changed += 1
            differences.append(difference.mean().item())
    print(f"jpeg_scaling decodes {changed} of {count} crops at a reduced scale.", end="")
    if differences:
        print(
            f" Their pixels change by {statistics.mean(differences):.2f} of 255 levels on average, by "
            f"{max(differences):.2f} in the crop that changes most.",
            end="",
        )
    print()


def write_photos(folder: Path, args: argparse.Namespace) -> None:
    """JPEGs of two classes: photos of a dataset, or noise with the spectrum of photos, 1 / frequency."""
    photos = PhotoData(args.photos, args.split) if args.photos else None
    for number in range(args.images if photos is None else min(args.images, len(photos))):
        picture = noise(args.side, number) if photos is None else photos[number].image.convert("RGB")
        share = args.side / min(picture.size)
        picture = picture.resize(
            (round(picture.width * share), round(picture.height * share)), Image.Resampling.BICUBIC
        )
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)


def noise(side: int, seed: int) -> Image.Image:
    """Of this height and a third wider."""
    shape = side, side * 4 // 3
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    frequency[0, 0] = 1.0
    grey, *colours = (np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) / frequency).real for _ in range(4))
    channels = np.stack([grey + 0.3 * colour for colour in colours], axis=-1)
    scaled = 128 + 50 * (channels - channels.mean()) / channels.std()
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
