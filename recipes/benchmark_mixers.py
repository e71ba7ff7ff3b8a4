"""Time of a training step with every way of mixing, as a multiple of one without, beside the paper's Table 1(b).

    python recipes/benchmark_mixers.py
    python recipes/benchmark_mixers.py --mixers mixup comixup --batch-sizes 100 32 --blocks 15

How it is measured: alignmix_timm/paper/step_time.py. The medians of ratios within turns are printed.
"""

import argparse
import functools
import statistics

import torch

from alignmix_timm.mixers import MIXERS, make_mixer
from alignmix_timm.paper.numbers import paper_tables
from alignmix_timm.paper.step_time import ratio, step_seconds

CASES = (("resnet18", 64), ("resnet50", 224))  # model, side of the images in pixels
ROWS = {"none": "baseline", "mixup": "input"}  # of the paper's table, where it calls a mixer otherwise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", nargs="+", choices=MIXERS, default=list(MIXERS))
    parser.add_argument("--batch-sizes", type=int, nargs=2, default=[100, 20], help="ResNet-18's and ResNet-50's")
    parser.add_argument("--blocks", type=int, default=7, help="turns of all mixers, after one that is not timed")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    args = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    names = list(dict.fromkeys(["none", *args.mixers]))
    makers = {name: functools.partial(make_mixer, name) for name in names}
    columns = {}
    for (model, size), batch_size in zip(CASES, args.batch_sizes, strict=True):
        title = f"{model}, {batch_size} x {size} x {size}"
        columns[title] = step_seconds(model, size, batch_size, makers, args.blocks, args.steps, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    print(f"\ntorch {torch.__version__}, {where}; medians of {args.blocks} blocks of {args.steps} steps")
    print_table(names, columns)


def print_table(names: list[str], columns: dict[str, dict[str, list[float]]]) -> None:
    """Ratios to no mixing, with the seconds of a step without mixing."""
    printed = {row: numbers[1] for row, numbers in paper_tables()["table1b"].rows.items()}  # milliseconds
    base = printed["baseline"] or 0
    print(f"\n| time of a step / without mixing | {' | '.join(columns)} | paper |")
    print("|---" * (len(columns) + 2) + "|")
    for name in names:
        cells = [
            f"{ratio(times[name], times['none']):.2f}" if name in times else "does not run"
            for times in columns.values()
        ]
        of_paper = printed.get(ROWS.get(name, name))
        print(f"| {name} | {' | '.join(cells)} | {'' if of_paper is None else f'{of_paper / base:.2f}'} |")
    seconds = [f"{statistics.median(times['none']):.3f} s" for times in columns.values()]
    print(f"| a step without mixing | {' | '.join(seconds)} | {base / 1000:.3f} s |")


if __name__ == "__main__":
    main()
