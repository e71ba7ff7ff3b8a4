"""Random erasing (Zhong et al., 2017), drawn for each row in the data worker, and done on the device.

What is drawn and what it is filled with follow from the row alone, on one kind of device: no worker, process or batch
has a part in it.
"""

import math
import random
from typing import NamedTuple

import torch
from torch import Tensor

Drawn = tuple[int, int, int, int, int]

_NOTHING: Drawn = (0, 0, 0, 0, 0)
_AREA, _ASPECT, _TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10  # timm's


class Erasing(NamedTuple):
    """Erases one rectangle of an image, of 2 % to a third of its area, with this probability."""

    probability: float

    def draw(self, height: int, width: int) -> Drawn:
        """The place of the rectangle and the seed of its noise: top, left, height, width, seed; zeros for none.

        Args:
            height, width: Of the image.
        """
        if random.random() > self.probability:
            return _NOTHING
        for _ in range(_TRIES):
            area = random.uniform(*_AREA) * height * width
            aspect = math.exp(random.uniform(*map(math.log, _ASPECT)))
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if tall < height and wide < width:
                top, left = random.randint(0, height - tall), random.randint(0, width - wide)
                return top, left, tall, wide, random.getrandbits(63)
        return _NOTHING


def erase(images: Tensor, drawn: Tensor) -> None:
    """Fill the rectangles of normalised images with noise of standard deviation 1, in place.

    Args:
        images: [B, C, H, W].
        drawn: [B, 5] on the CPU, what :meth:`Erasing.draw` returned for each.
    """
    generator = torch.Generator(images.device)
    for image, (top, left, tall, wide, seed) in zip(images, drawn.tolist(), strict=True):
        if tall and wide:
            noise = image.new_empty(len(image), tall, wide)
            image[:, top : top + tall, left : left + wide] = noise.normal_(generator=generator.manual_seed(seed))
