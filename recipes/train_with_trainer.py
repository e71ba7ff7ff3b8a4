"""Train a timm model with AlignMix under the Hugging Face Trainer.

    pip install transformers
    python recipes/train_with_trainer.py --output runs/trainer
    python recipes/train_with_trainer.py --data path/or/name --model resnet18 --image-size 64
    accelerate launch recipes/train_with_trainer.py --output runs/trainer    # on several GPUs

The model mixes each batch of the collator in training mode; evaluation is that of the plain model.
The folder OUTPUT/model holds the weights for plain timm. A resumed Trainer sees other mixes than it would have seen;
for exact resume use train.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn
from transformers import Trainer, TrainingArguments

from alignmix_timm import AlignMixCollator, AlignMixModel
from alignmix_timm.evaluation.accuracy import scores, summary
from alignmix_timm.publishing.provenance import Provenance, find_dataset
from alignmix_timm.publishing.save import load_for_timm, save_for_timm
from alignmix_timm.training.build import build_model, check_names
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.dataset import read_image
from alignmix_timm.training.data.splits import Splits, load_splits
from alignmix_timm.training.data.transforms import data_config, eval_transform, train_transform
from alignmix_timm.training.errors import told_in_a_sentence
from alignmix_timm.training.option_ranges import check_ranges
from alignmix_timm.training.parsing import OneLineParser
from alignmix_timm.training.run_folder import make_folder

EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist"


def main() -> None:
    args = parse_args()
    with told_in_a_sentence():
        check_ranges(vars(args))
        train(args)


def train(args: argparse.Namespace) -> None:
    """Train, evaluate, save.

    Raises:
        ValueError, OSError: the options, the data and the model do not go together.
    """
    config = TrainConfig(
        data=args.data,
        image_column=args.image_column,
        label_column=args.label_column,
        max_train_samples=args.rows,
        model=args.model,
        img_size=args.image_size,
        train_crop="pad",
        seed=args.seed,
    )
    config.check()
    check_names(config)
    make_folder("output", Path(args.output))
    splits = load_splits(config)
    if not 2 <= args.batch_size <= len(splits.train):
        raise ValueError(
            f"batch_size must be >= 2, to mix, and at most the training rows, got {args.batch_size} of "
            f"{len(splits.train)} rows."
        )
    set_seed(args.seed)
    net = build_model(config, len(splits.names))
    data = data_config(net, config)
    model = AlignMixModel(net, input_size=data["input_size"], mean=data["mean"], std=data["std"])
    options = TrainingArguments(
        args.output,
        seed=args.seed,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=500,
        dataloader_drop_last=True,  # a batch of one image has no partner
        learning_rate=2e-3,
        remove_unused_columns=False,  # the Trainer knows the names of forward(), not those of the dataset
        label_names=["labels"],
        report_to=[],
    )
    check_devices(options.n_gpu)
    trainer = Trainer(
        model,
        options,
        data_collator=AlignMixCollator(seed=args.seed, num_classes=len(splits.names)),
        train_dataset=transformed(splits.train, splits, train_transform(data, config, normalize=False)),
        compute_metrics=lambda pair: summary(scores(*map(torch.from_numpy, pair))),
    )
    trainer.train()
    trainer.args.dataloader_drop_last = False  # every row is measured
    test = transformed(splits.test, splits, eval_transform(data, normalize=False))
    metrics = trainer.evaluate(test)
    if trainer.is_world_process_zero():
        print(metrics)
        folder = Path(args.output) / "model"
        provenance = describe(metrics, str(model.hooks.point), splits, args)
        save_for_timm(model, folder, splits.names, data, provenance=provenance)
        check_reload(net, folder, model.as_floats(torch.stack(test[:8]["pixel_values"])))
        print(f"Plain timm loads the weights in {folder}.")


def check_devices(gpus: int) -> None:
    """Raise ValueError for a process with several GPUs, where the Trainer splits batches by DataParallel."""
    if gpus > 1:
        raise ValueError(
            f"each process must train on one GPU, got {gpus}: the Trainer would split batches after they were "
            "collated. Start the script with accelerate launch, or choose a GPU by CUDA_VISIBLE_DEVICES."
        )


def transformed(rows: Any, splits: Splits, transform: Any) -> Any:
    """Rows whose images are read and transformed when they are asked for, with the columns that the collator knows.

    They are bytes: the model normalises them, on its device.
    """

    def apply(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        try:
            images = [transform(read_image(value, "RGB")) for value in batch[splits.image]]
        except OSError as error:
            raise ValueError(f"an image in the column {splits.image!r} cannot be read: {error}.") from error
        return {"pixel_values": images, "labels": batch[splits.label]}

    return rows.with_transform(apply)


@torch.no_grad()
def check_reload(net: nn.Module, folder: Path, images: torch.Tensor) -> None:
    """Raise ValueError if the saved model answers other than the trained one."""
    trained, restored = net.cpu().eval()(images), load_for_timm(folder).eval()(images)
    if not torch.allclose(trained, restored, atol=1e-4):
        raise ValueError(f"the model in {folder} answers other than the trained one.")


def describe(metrics: dict[str, float], mixing: str, splits: Splits, args: argparse.Namespace) -> Provenance:
    """What the card of the model says, should it be published."""
    data = find_dataset(args.data)
    data.train_rows, data.eval_rows = len(splits.train), len(splits.test)
    data.eval_split = None if splits.test.split is None else str(splits.test.split)
    results = {name: metrics[f"eval_{name}"] for name in ("top1", "top5", "loss", "ece")}
    return Provenance(
        data,
        results,
        args.seed,
        mixing=mixing,
        epochs=args.epochs,
        options={"model": args.model, "image_size": args.image_size, "batch_size": args.batch_size},
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    parser.add_argument("--data", default=str(EMBEDDED), help="name or folder for datasets.load_dataset")
    parser.add_argument("--image-column", help="default: the first column of images")
    parser.add_argument("--label-column", help="default: the first column of class labels")
    parser.add_argument("--model", default="test_resnet", help="any name of timm.list_models()")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=2500, help="use this many training rows, drawn at random")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="for each device")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="trainer")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
