"""The Hugging Face Trainer: trains with the collator, and evaluates the plain model exactly."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from transformers import Trainer, TrainingArguments

from alignmix_timm import AlignMixCollator, AlignMixModel

ROOT = Path(__file__).parents[1]


def build(tmp_path: Path, count: int = 23) -> tuple[Trainer, torch.Tensor, torch.Tensor, Any]:
    torch.manual_seed(0)
    images, labels = torch.randn(count, 3, 32, 32), torch.arange(count) % 10
    rows = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    net = timm.create_model("test_resnet", num_classes=10)
    options = TrainingArguments(
        str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=5,
        per_device_eval_batch_size=8,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        use_cpu=True,
        save_steps=3,
        logging_steps=1,
    )
    trainer = Trainer(
        AlignMixModel(net, input_size=(3, 32, 32)),
        options,
        data_collator=AlignMixCollator(seed=0),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda pair: {"top1": (pair.predictions.argmax(1) == pair.label_ids).mean()},
    )
    return trainer, images, labels, net


def test_evaluation_equals_that_of_the_plain_model(tmp_path: Path) -> None:
    trainer, images, labels, net = build(tmp_path)
    found = trainer.evaluate()
    predicted = trainer.predict(trainer.eval_dataset).predictions
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(batch) for batch in images.split(8)])
    assert np.array_equal(predicted, logits.numpy())
    assert found["eval_top1"] == (logits.argmax(1) == labels).double().mean().item()
    losses = [torch.nn.functional.cross_entropy(*pair) for pair in zip(logits.split(8), labels.split(8), strict=True)]
    mean = sum(loss.item() * len(part) for loss, part in zip(losses, labels.split(8), strict=True)) / len(labels)
    assert abs(found["eval_loss"] - mean) < 1e-6


def test_training_mixes_and_saves_the_keys_of_the_timm_model(tmp_path: Path) -> None:
    trainer, _, _, net = build(tmp_path)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trainer.train()
    assert trainer.model.hooks.transport is not None
    assert not torch.equal(before["fc.weight"], net.state_dict()["fc.weight"])
    saved = timm.create_model(
        "test_resnet", num_classes=10, checkpoint_path=str(tmp_path / "checkpoint-6" / "model.safetensors")
    )
    assert all(torch.equal(value, net.state_dict()[name].cpu()) for name, value in saved.state_dict().items())


def test_the_example_trains(tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "recipes" / "train_with_trainer.py"), "--output", str(tmp_path)]
    done = subprocess.run([*line, "--epochs", "1", "--rows", "320"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'eval_top1'" in done.stdout
