"""Adapters of PEFT around the wrapper, and inside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from wrapped import IMAGES, LABELS, NETWORKS, network, step, wrapper

from alignmix_timm import AlignMixCollator, AlignMixModel, MixParams

peft = pytest.importorskip("peft", reason="needs peft")
ADAPTED = {"test_vit": (["qkv", "head"], 14), "test_resnet": (["fc"], 2)}  # modules, and tensors of their adapters


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def adapters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if "lora_" in name}


def lora(name: str) -> Any:
    return peft.LoraConfig(target_modules=ADAPTED[name][0], r=2, lora_alpha=6, init_lora_weights=False)


def around(name: str) -> tuple[Any, AlignMixModel]:
    model = wrapper(name)
    return peft.get_peft_model(model, lora(name)).train(), model


def inside_before(name: str) -> tuple[Any, AlignMixModel]:
    adapted = peft.get_peft_model(network(name), lora(name))
    model = AlignMixModel(adapted, input_size=(3, 64, 64)).train()
    return model, model


def inside_after(name: str) -> tuple[Any, AlignMixModel]:
    model = wrapper(name)
    peft.get_peft_model(model.model, lora(name))
    return model.train(), model


def injected(name: str) -> tuple[Any, AlignMixModel]:
    model = wrapper(name)
    peft.inject_adapter_in_model(lora(name), model)
    return model.train(), model


@pytest.mark.parametrize("build", [around, inside_before, inside_after, injected])
def test_lora_on_the_head_classifies_the_mixed_embedding(
    name: str, build: Callable[[str], tuple[Any, AlignMixModel]]
) -> None:
    whole, model = build(name)
    assert len(adapters(whole)) == len(adapters(model.model)) == ADAPTED[name][1]
    params = MixParams("embed", torch.tensor([0.9, 0.3, 0.5, 0.7]), torch.tensor([1, 2, 3, 0]))
    output = whole(pixel_values=IMAGES, labels=LABELS, mix=params)
    output.loss.backward()
    net, head = model.detach(), model.get_classifier()
    embedding = net.forward_head(net.forward_features(IMAGES), pre_logits=True)
    lam = params.lam[:, None]
    mixed = lam * embedding + (1 - lam) * embedding[params.perm]
    low_rank = 3 * head.lora_B["default"].weight @ head.lora_A["default"].weight
    expected = mixed @ (head.base_layer.weight + low_rank).T + head.base_layer.bias
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, mixed @ head.base_layer.weight.T + head.base_layer.bias, atol=1e-2)
    trained = {key for key, value in whole.named_parameters() if value.grad is not None}
    assert trained == set(adapters(whole))


@pytest.mark.parametrize("build", [around, inside_before])
def test_adapters_are_saved_and_loaded_bit_by_bit(
    name: str, build: Callable[[str], tuple[Any, AlignMixModel]], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    whole, model = build(name)
    adapted = whole if build is around else model.model
    step(model, torch.optim.SGD(adapted.parameters(), 0.1))
    adapted.save_pretrained(tmp_path)
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == len(adapters(model)) == ADAPTED[name][1]
    base = {key: value for key, value in model.state_dict().items() if "lora_" not in key}
    fresh = wrapper(name) if build is around else network(name)
    restored = peft.PeftModel.from_pretrained(fresh, tmp_path)
    found = adapters(restored)
    assert found.keys() == adapters(adapted).keys()
    assert all(torch.equal(found[key], value) for key, value in adapters(adapted).items())
    again = restored.get_base_model()
    again.load_state_dict({key.removeprefix("base_model.model."): value for key, value in base.items()}, strict=False)
    logits = again.eval()(IMAGES)
    assert torch.equal(getattr(logits, "logits", logits), model.eval()(IMAGES).logits)


def test_merged_adapters_give_weights_that_timm_loads(name: str) -> None:
    whole, model = around(name)
    expected = whole.eval()(IMAGES).logits
    merged = whole.merge_and_unload()
    assert merged is model
    plain = network(name, seed=1)
    plain.load_state_dict(merged.state_dict())
    torch.testing.assert_close(plain.eval()(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_trainer_saves_the_adapters(tmp_path: Path) -> None:
    whole, _ = around("test_resnet")
    rows = [{"image": IMAGES[row], "label": row} for row in range(4)]
    options: dict[str, Any] = dict(remove_unused_columns=False, label_names=["labels"], report_to=[], use_cpu=True)
    trainer = Trainer(
        whole,
        TrainingArguments(str(tmp_path / "run"), max_steps=2, save_strategy="no", **options),
        data_collator=AlignMixCollator(seed=0),
        train_dataset=rows,
    )
    before = {key: value.clone() for key, value in adapters(whole).items()}
    trainer.train()
    assert not any(torch.equal(value, before[key]) for key, value in adapters(whole).items())
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert {key.replace(".weight", ".default.weight"): value.tolist() for key, value in saved.items()} == {
        key: value.tolist() for key, value in adapters(whole).items()
    }
