"""Random crops of photos, and a crop that reads no more of a JPEG than it needs."""

import random

from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation, interp_mode_to_str, str_to_pil_interp
from torchvision.transforms import functional as F

_SCALES = (8, 4, 2)  # at which libjpeg decodes cheaply, as Pillow has it


class ReducingCrop(RandomResizedCropAndInterpolation):
    """timm's random resized crop, drawn alike, which lets a JPEG that is still to be read be decoded at a fraction.

    That is 1/2, 1/4 or 1/8 of its size where the crop then still has at least the height and width that it is resized
    to. Other images, and those that are loaded already, are cropped as timm does.
    """

    def __call__(self, picture: Image.Image) -> Image.Image:
        top, left, height, width = self.get_params(picture, self.scale, self.ratio)
        drawn = self.interpolation
        interpolation = random.choice(drawn) if isinstance(drawn, tuple) else drawn
        whole, most = picture.size, min(height // self.size[0], width // self.size[1])
        scale = next((scale for scale in _SCALES if scale <= most), 1)
        if scale > 1:
            picture.draft(None, (whole[0] // scale, whole[1] // scale))
        if picture.size == whole:
            return F.resized_crop(picture, top, left, height, width, self.size, interpolation)
        box = left / scale, top / scale, (left + width) / scale, (top + height) / scale
        resampling = str_to_pil_interp(interp_mode_to_str(interpolation))
        return picture.resize(self.size[::-1], resampling, box=box)
