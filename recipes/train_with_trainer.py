"""Train a timm model with AlignMix under the Hugging Face Trainer.

    pip install transformers
    python recipes/train_with_trainer.py --output runs/trainer

The collator draws how each batch is mixed, the model mixes it in training mode; evaluation is that of the plain model.
A resumed Trainer sees other mixes than it would have seen; for exact resume use train.py.
"""

import argparse
from pathlib import Path

import timm
import torch
from datasets import load_dataset
from torchvision.transforms import v2
from transformers import Trainer, TrainingArguments

from alignmix_timm import AlignMixCollator, AlignMixModel
from alignmix_timm.evaluation.accuracy import scores, summary

EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(EMBEDDED), help="dataset with the columns image and label")
    parser.add_argument("--model", default="test_resnet", help="any name of timm.list_models()")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=2500, help="use this many training rows")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--output", default="trainer")
    args = parser.parse_args()
    splits = load_dataset(args.data)
    size = [args.image_size, args.image_size]
    transform = v2.Compose([v2.RGB(), v2.PILToTensor(), v2.Resize(size), v2.ToDtype(torch.float32, scale=True)])
    splits = splits.with_transform(lambda rows: {**rows, "image": [transform(image) for image in rows["image"]]})
    names = splits["train"].features["label"].names
    trainer = Trainer(
        AlignMixModel(timm.create_model(args.model, num_classes=len(names)), input_size=(3, *size)),
        TrainingArguments(
            args.output,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=500,
            learning_rate=2e-3,
            remove_unused_columns=False,  # the Trainer knows the names of forward(), not those of the dataset
            label_names=["labels"],
            report_to=[],
        ),
        data_collator=AlignMixCollator(num_classes=len(names)),
        train_dataset=splits["train"].select(range(args.rows)),
        eval_dataset=splits["test"],
        compute_metrics=lambda pair: summary(scores(*map(torch.from_numpy, pair))),
    )
    trainer.train()
    print(trainer.evaluate())


if __name__ == "__main__":
    main()
