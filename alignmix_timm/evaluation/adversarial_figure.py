"""The picture of attacks: images, what was added to them, and what the network says before and after."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .plotting import new_figure, short, show

_CELL, _CAPTION = 1.9, 0.24  # inches
_RIGHT, _WRONG = "#1a7f37", "#b3261e"


class Attack(NamedTuple):
    """One attack on the images of a picture.

    Attributes:
        name: Such as ``FGSM``.
        pixels: The adversarial images, [N, C, H, W] in [0, 1].
        radius: Largest change of a pixel.
    """

    name: str
    pixels: Tensor
    radius: float


def draw_adversarial(
    clean: Tensor,
    attacks: Sequence[Attack],
    logits: Callable[[Tensor], Tensor],
    labels: Tensor,
    class_names: Sequence[str],
) -> Any:
    """A column for each image: the image, then the perturbation and the adversarial image of each attack.

    Below an image stands the class of the highest logit and its softmax, green where it is the label. Perturbations
    are scaled: grey is no change of a pixel, black and white are a change by the radius.

    Args:
        clean: Images, [N, C, H, W] in [0, 1].
        attacks: On these images.
        logits: The network, of pixels in [0, 1].
        labels: Class indices, [N].
        class_names: Of all classes.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    count, (height, width) = len(clean), clean.shape[2:]
    rows = 1 + 2 * len(attacks)
    figure = new_figure(_CELL * count + 0.4, rows * (_CELL * height / width + _CAPTION) + 0.3)
    axes = figure.subplots(rows, count, squeeze=False)
    _draw_images(axes[0], "image", clean, logits, labels, class_names)
    for column, label in enumerate(labels.tolist()):
        axes[0, column].set_title(f"label: {short(class_names[label])}", fontsize="small", parse_math=False)
    for place, (name, pixels, radius) in enumerate(attacks):
        above, below = axes[1 + 2 * place], axes[2 + 2 * place]
        above[0].set_ylabel(f"{name}: change\n(± {255 * radius:.3g}/255)", fontsize="small")
        for axis, change in zip(above, (pixels - clean) / (radius or 1), strict=True):
            show(axis, change)
        _draw_images(below, f"{name}: image", pixels, logits, labels, class_names)
    return figure


def _draw_images(
    axes: Any,
    name: str,
    pixels: Tensor,
    logits: Callable[[Tensor], Tensor],
    labels: Tensor,
    class_names: Sequence[str],
) -> None:
    with torch.no_grad():
        confidence, prediction = logits(pixels).softmax(1).max(1)
    axes[0].set_ylabel(name, fontsize="small")
    said = zip(axes, pixels, prediction.tolist(), confidence.tolist(), labels.tolist(), strict=True)
    for axis, image, index, share, label in said:
        show(axis, 2 * image - 1)
        color = _RIGHT if index == label else _WRONG
        text = f"{short(class_names[index])} {100 * share:.0f} %"
        axis.set_xlabel(text, fontsize="small", color=color, parse_math=False)
