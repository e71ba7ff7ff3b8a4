"""Time of a training step with every way of mixing, as a multiple of one without, beside the paper's Table 1(b).

    python recipes/benchmark_mixers.py
    python recipes/benchmark_mixers.py --mixers mixup comixup --batch-sizes 100 32 --blocks 15

A step draws, mixes, goes forward and backward, and updates the weights, with random images that lie on the device; no
image is loaded. All mixers train one network in turns: ratios are taken within a turn, and their median is printed.
"""

import argparse
import statistics
import time
from typing import Any

import timm
import torch
from tqdm import tqdm

from alignmix_timm import AlignMixModel
from alignmix_timm.mixers import MIXERS, Mixer, OneOf, make_mixer
from alignmix_timm.params import Place
from alignmix_timm.points import unannounced

CASES = (("resnet18", 64), ("resnet50", 224))  # model, side of the images in pixels
CLASSES = 100
PAPER = {  # milliseconds of a step: ResNet-50, 224 pixels, RTX 2080 Ti (AlignMix, Table 1b)
    "none": 418,
    "mixup": 436,
    "cutmix": 427,
    "manifold": 441,
    "puzzlemix": 846,
    "comixup": 1022,
    "saliencymix": 462,
    "stylemix": 828,
    "stylecutmix": 912,
    "alignmix": 450,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", nargs="+", choices=MIXERS, default=list(MIXERS))
    parser.add_argument("--batch-sizes", type=int, nargs=2, default=[100, 20], help="ResNet-18's and ResNet-50's")
    parser.add_argument("--blocks", type=int, default=7, help="turns of all mixers, after one that is not timed")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    args = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    names = list(dict.fromkeys(["none", *args.mixers]))
    columns = {}
    for (model, size), batch_size in zip(CASES, args.batch_sizes, strict=True):
        title = f"{model}, {batch_size} x {size} x {size}"
        columns[title] = measure(model, size, batch_size, names, args.blocks, args.steps, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    print(f"\ntorch {torch.__version__}, {where}; medians of {args.blocks} blocks of {args.steps} steps")
    print_table(names, columns)


def measure(
    name: str, size: int, batch_size: int, mixers: list[str], blocks: int, steps: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of a step in each block, by mixer. A mixer that does not run is named with the reason, and left out."""
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.randint(CLASSES, (batch_size,), device=device)
    parts = {mixer: one for mixer in mixers if (one := attempt(mixer, lambda mixer=mixer: make_mixer(mixer)))}
    with unannounced():
        net = timm.create_model(name, num_classes=CLASSES)
        model = AlignMixModel(net, mixer=OneOf(tuple(parts.values())), input_size=(3, size, size)).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step(mixer: Mixer, number: int) -> bool:
        model.mixer = mixer
        model(images, labels, mixer.draw(batch_size, Place(0, number))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return True

    runs = {mixer: one for mixer, one in parts.items() if attempt(mixer, lambda one=one: step(one, 0))}
    times: dict[str, list[float]] = {mixer: [] for mixer in runs}
    for block in tqdm(range(blocks), desc=name, unit="block"):
        for mixer, one in runs.items():
            wait(device)
            start = time.perf_counter()
            for number in range(steps):
                step(one, 1 + block * steps + number)
            wait(device)
            times[mixer].append((time.perf_counter() - start) / steps)
    return times


def attempt(mixer: str, action: Any) -> Any:
    """What the action returns; None if it fails, with the reason on the screen."""
    try:
        return action()
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{mixer} does not run: {error}")
        return None


def print_table(names: list[str], columns: dict[str, dict[str, list[float]]]) -> None:
    """Ratios to no mixing, with the seconds of a step without mixing."""
    print(f"\n| time of a step / without mixing | {' | '.join(columns)} | paper |")
    print("|---" * (len(columns) + 2) + "|")
    for name in names:
        cells = [ratio(times.get(name, []), times["none"]) for times in columns.values()]
        paper = f"{PAPER[name] / PAPER['none']:.2f}" if name in PAPER else ""
        print(f"| {name} | {' | '.join(cells)} | {paper} |")
    seconds = [f"{statistics.median(times['none']):.3f} s" for times in columns.values()]
    print(f"| a step without mixing | {' | '.join(seconds)} | {PAPER['none'] / 1000:.3f} s |")


def ratio(times: list[float], base: list[float]) -> str:
    """Median of the ratios within each block."""
    if not times:
        return "does not run"
    return f"{statistics.median(one / none for one, none in zip(times, base, strict=True)):.2f}"


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


if __name__ == "__main__":
    main()
