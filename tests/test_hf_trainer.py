"""The Hugging Face Trainer: trains with the collator, and evaluates the plain model exactly."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from style import Identity
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from alignmix_timm import AlignMixCollator, AlignMixModel, draw
from alignmix_timm.mixers import MIXERS, Mixer, OneOf, make_mixer
from alignmix_timm.params import Place
from alignmix_timm.publishing.save import load_for_timm

EXAMPLE = Path(__file__).parents[1] / "recipes" / "train_with_trainer.py"


def build(
    tmp_path: Path, count: int = 23, mixer: Mixer | None = None, **changes: Any
) -> tuple[Trainer, torch.Tensor, torch.Tensor, Any]:
    torch.manual_seed(0)
    images, labels = torch.randn(count, 3, 32, 32), torch.arange(count) % 10
    rows = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    net = timm.create_model("test_resnet", num_classes=10)
    options = dict(
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
        AlignMixModel(net, mixer=mixer, input_size=(3, 32, 32)),
        TrainingArguments(str(tmp_path), **(options | changes)),
        data_collator=AlignMixCollator(seed=0, mixer=mixer),
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
    """Into the second epoch, with evaluation in between: the draws are those of steps 0 to 5."""
    trainer, _, _, net = build(tmp_path)
    trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 2
    seen: list[Any] = []
    trainer.model.register_forward_pre_hook(
        lambda model, _, batch: seen.append(batch["mix"]) if model.training else None, with_kwargs=True
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trainer.train()
    assert "eval_loss" in str(trainer.state.log_history)
    assert [len(mix) for mix in seen] == [5, 5, 5, 5, 3, 5]
    assert all(torch.equal(mix.lam, draw(len(mix), 0, step).lam) for step, mix in enumerate(seen))
    assert trainer.model.hooks.transport is not None
    assert not torch.equal(before["fc.weight"], net.state_dict()["fc.weight"])
    saved = timm.create_model(
        "test_resnet", num_classes=10, checkpoint_path=str(tmp_path / "checkpoint-6" / "model.safetensors")
    )
    assert all(torch.equal(value, net.state_dict()[name].cpu()) for name, value in saved.state_dict().items())


STYLE: dict[str, Any] = {"codec": Identity(), "size": None, "prob": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"bf16": True, "dataloader_num_workers": 1}, {"torch_compile": True}], ids=str)
def test_every_mixer_trains(tmp_path: Path, changes: dict[str, Any]) -> None:
    """In turns, with two batches for each step; what is drawn at each is what the collator's mixer draws there."""
    mixer = OneOf([make_mixer(name, **(STYLE if "style" in name else {})) for name in MIXERS])
    compiling = {"torch_compile_backend": "eager"} if "torch_compile" in changes else {}
    options = {"max_steps": 20, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, **compiling}
    trainer, _, _, net = build(tmp_path, 24, mixer, **options, **changes)
    losses: list[float] = []
    trainer.model.register_forward_hook(
        lambda model, args, output: losses.append(output.loss.item()) if model.training else None
    )
    before = net.fc.weight.clone()
    trainer.train()
    drawn = [mixer.draw(4, Place(0, step)) for step in range(40)]
    names = [params.mixer if params.mode != "none" else "none" for params in drawn]
    assert set(names) == set(MIXERS)
    assert len(losses) == 40
    assert np.isfinite(losses).all()
    assert not torch.equal(before, net.fc.weight)
    assert trainer.model.hooks.saliency_passes == names.count("puzzlemix") + names.count("comixup")


def test_the_example_trains_on_all_classes_of_a_sorted_dataset_without_a_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dark images, then bright ones: the first 128 rows would be of one class."""
    pixels = np.random.default_rng(0).integers(0, 60, (400, 32, 32, 3), dtype=np.uint8)
    pixels[200:] += 190
    features = datasets.Features(
        img=datasets.Image(),
        fine_label=datasets.ClassLabel(names=["dark", "bright"]),
        coarse_label=datasets.Value("int64"),
    )
    columns = {"img": list(pixels), "fine_label": [0] * 200 + [1] * 200, "coarse_label": [0] * 400}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    line = [str(EXAMPLE), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", [*line, "--epochs", "4", "--rows", "128", "--batch-size", "16"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "'eval_rows': 40.0" in capsys.readouterr().out
    origin = json.loads((tmp_path / "run" / "model" / "provenance.json").read_text())["run"]
    assert (origin["dataset"]["train_rows"], origin["dataset"]["eval_rows"]) == (128, 40)
    assert origin["results"]["top1"] > 90
    restored = load_for_timm(tmp_path / "run" / "model").eval()
    assert restored(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32)).argmax(1).tolist() == [0, 1]


def test_columns_that_the_trainer_drops_are_an_error_that_says_so(tmp_path: Path) -> None:
    trainer, *_ = build(tmp_path)
    rows = datasets.Dataset.from_dict({"image": [[0.0]] * 8, "label": list(range(8))})
    trainer.train_dataset, trainer.args.remove_unused_columns = rows, True
    with pytest.raises(ValueError, match=r"columns \['label'\], got 'pixel_values'. .*remove_unused_columns=False"):
        trainer.train()


def test_the_example_trains_on_one_gpu_in_each_process() -> None:
    check: Any = runpy.run_path(str(EXAMPLE))["check_devices"]
    check(0)
    check(1)
    with pytest.raises(ValueError, match=r"must train on one GPU, got 2: .* with accelerate launch"):
        check(2)


def test_activation_checkpointing_changes_no_bit_of_a_training(tmp_path: Path) -> None:
    """And images are given to the metrics."""
    weights = []
    for name in ("plain", "checkpointed"):
        trainer, images, _, net = build(tmp_path / name)
        trainer.args.activation_checkpointing = trainer.args.gradient_checkpointing = name == "checkpointed"
        trainer.train()
        assert net.grad_checkpointing == (name == "checkpointed")
        weights.append(list(net.parameters()))
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    trainer.args.include_for_metrics = ["inputs", "loss"]
    trainer.compute_metrics = lambda result: {"images": float(np.array_equal(result.inputs, images.numpy()))}
    assert trainer.evaluate()["eval_images"] == 1


def test_activation_checkpointing_that_timm_has_not_is_an_error(tmp_path: Path) -> None:
    model = build(tmp_path)[0].model
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.gradient_checkpointing_disable()
    assert not model.model.grad_checkpointing
    with pytest.raises(
        ValueError, match=r"timm's, which has no options, got \{'use_reentrant': True, 'offload': True\}"
    ):
        model.activation_checkpointing_enable({"use_reentrant": True}, every_n_layers=1, offload=True)
    legacy = AlignMixModel(timm.create_model("dla34", num_classes=3), input_size=(3, 64, 64))
    with pytest.raises(ValueError, match="DLA has no activation checkpointing: set gradient_checkpointing=False"):
        legacy.gradient_checkpointing_enable()


def test_label_smoothing_of_the_trainer_is_an_error_that_names_the_models(tmp_path: Path) -> None:
    trainer, *_ = build(tmp_path)
    trainer.label_smoother = LabelSmoother(0.1)  # as label_smoothing_factor=0.1 sets it
    with pytest.raises(ValueError, match=r"label_smoothing_factor and compute_loss_func: use label_smoothing and"):
        trainer.train()
