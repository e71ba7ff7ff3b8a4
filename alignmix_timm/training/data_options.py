"""Options of the data of a run, of the model, and of the augmentation."""

from dataclasses import dataclass
from typing import Any, Literal

from ..points.images import MAX_PIXELS
from .options import OptionGroup, option


@dataclass
class DataOptions(OptionGroup):
    """What is trained and evaluated on."""

    data: str = option(
        "", "dataset on the Hub, or folder: of class folders, parquet files, or save_to_disk", role="source"
    )
    data_config: str | None = option(None, "configuration of the dataset, where it has several")
    revision: str | None = option(None, "branch, tag or commit of the dataset on the Hub")
    train_dir: str | None = option(None, "folder of class folders to train on, in place of data", role="source")
    val_dir: str | None = option(None, "folder of class folders to evaluate on", role="source")
    train_split: str = option("train", "name of the training split")
    val_split: str | None = option(None, "evaluation split; default validation, val, dev, holdout, test or the like")
    val_fraction: float = option(0.1, "without an evaluation split: share of the training rows held out for it")
    image_column: str | None = option(None, "default: image, img, or the only column of images")
    label_column: str | None = option(None, "default: label, labels, fine_label, or the only column of class labels")
    num_classes: int | None = option(None, "default: as many as the dataset names, or has different labels")
    max_train_samples: int | None = option(
        None, "use this many training rows, drawn at random, or the first that stream"
    )
    max_eval_samples: int | None = option(None, "use this many evaluation rows, drawn at random")
    streaming: bool = option(False, "read the training data in order of its shards, without downloading it first")
    shuffle_buffer: int = option(10_000, "streaming: rows to draw from at random")
    train_samples: int | None = option(None, "streaming: rows in an epoch; default as the dataset says")
    skip_corrupt: bool = option(
        False, "replace images that cannot be read or augmented by the next row, and report them"
    )
    max_pixels: int = option(MAX_PIXELS, "decode no image of more pixels: it may be a decompression bomb")
    cache_images: int = option(
        0,
        "keep decoded images in memory, for all epochs, where they need at most so many MB in each process; 0: decode "
        "them each time",
        role="call",
    )
    workers: int | None = option(
        None,
        "data workers for each process; default its share of the CPU cores, at most 8; 4 for a stream",
        role="call",
    )

    def check(self) -> None:
        if self.data and self.train_dir is not None:
            raise ValueError(f"train_dir takes the place of data: pass one, got {self.train_dir!r} and {self.data!r}.")
        if self.val_split is not None and self.val_dir is not None:
            raise ValueError(
                f"val_dir takes the place of val_split: pass one, got {self.val_dir!r} and {self.val_split!r}."
            )
        if self.cache_images and self.streaming:
            raise ValueError("cache_images must be 0 where data stream: a stream does not say which row an image is.")


@dataclass
class ModelOptions(OptionGroup):
    """What is trained."""

    model: str = option("resnet50", "any name of timm.list_models()", role="model")
    pretrained: bool = option(False, "start from timm's pretrained weights")
    initial_checkpoint: str | None = option(
        None, "start from hf-hub:USER/NAME, a folder saved for timm, or a file of weights", role="source"
    )
    img_size: int | None = option(None, "height and width of the images; default as the model was built for")
    input_size: list[int] | None = option(
        None, "channels, height and width, such as 3 128 256, in place of img_size and in_chans"
    )
    in_chans: int = option(3, "channels of the images: 3, or 1 for grey", role="model")
    drop: float | None = option(None, "dropout before the classifier")
    drop_path: float | None = option(None, "stochastic depth")
    model_args: dict[str, Any] = option({}, "more arguments of timm.create_model, as name=value", role="model")
    embedding: Literal["none", "flatten", "tensor"] = option(
        "none",
        "put the paper's encoder on the model: fully-connected on the flattened map, or a tensor by convolution",
        role="model",
    )
    embed_dim: int = option(512, "embedding: its dimension", role="model")
    grid: int = option(4, "embedding: average larger maps down to grid x grid", role="model")

    def check(self) -> None:
        if self.input_size is not None:
            self.in_chans = self._channels(self.input_size)
        if self.in_chans not in (1, 3):
            raise ValueError(f"in_chans must be 1 or 3, got {self.in_chans}.")

    def _channels(self, size: list[int]) -> int:
        if len(size) != 3 or size[0] not in (1, 3) or min(size) < 1:
            raise ValueError(f"input_size must be 1 or 3 channels, a height and a width >= 1, got {size}.")
        if self.img_size is not None and size[1:] != [self.img_size] * 2:
            raise ValueError(f"input_size and img_size must not both be given, got {size} and {self.img_size}.")
        if self.in_chans not in (3, size[0]):
            raise ValueError(f"in_chans must be that of input_size, {size}, got {self.in_chans}.")
        return size[0]

    @property
    def image_size(self) -> int | tuple[int, int] | None:
        """Height and width of the images, one number for both if they are square; None where the model decides."""
        if self.input_size is None:
            return self.img_size
        _, height, width = self.input_size
        return height if height == width else (height, width)


@dataclass
class AugmentationOptions(OptionGroup):
    """How images are read and augmented."""

    train_crop: Literal["rrc", "pad", "resize"] = option(
        "rrc", "random resized crop; crop of the padded image (CIFAR); random crop of the resized image (8/7 its size)"
    )
    scale: list[float] = option([0.08, 1.0], "rrc: range of the area")
    ratio: list[float] = option([0.75, 1.3333], "rrc: range of the aspect ratio")
    hflip: float = option(0.5, "probability of a horizontal flip")
    vflip: float = option(0.0, "probability of a vertical flip")
    color_jitter: float = option(0.0, "colour jitter")
    aa: str | None = option(None, "timm's automatic augmentation, such as rand-m7-mstd0.5-inc1")
    reprob: float = option(0.0, "probability of random erasing")
    crop_pct: float | None = option(None, "evaluation: cropped share of the image; default the model's")
    crop_mode: Literal["center", "squash", "border"] | None = option(
        None,
        "evaluation: crop at the centre; whole image, its sides scaled apart; or with a border; default the model's",
    )
    interpolation: str | None = option(None, "how images are resized; default the model's")
    train_interpolation: str | None = option(
        None, "how images are resized in training; random: bilinear or bicubic, as in timm; default interpolation"
    )
    jpeg_scaling: bool = option(
        False,
        "rrc: decode a JPEG at 1/2, 1/4 or 1/8 where the crop stays as large as the input, which changes pixels a bit",
    )
    mean: list[float] | None = option(None, "mean of each channel; default the model's")
    std: list[float] | None = option(None, "standard deviation of each channel; default the model's")

    def check(self) -> None:
        if self.jpeg_scaling and self.train_crop != "rrc":
            raise ValueError(f"jpeg_scaling must be off for the crop {self.train_crop!r}: it needs the crop rrc.")
