"""The wrapper has the parts of its network under their own names, as tools that go by the state dict expect."""

import copy
import importlib
import pickle
from pathlib import Path
from typing import Any

import accelerate
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import freeze
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.optim.swa_utils import AveragedModel
from wrapped import IMAGES, LABELS, NETWORKS, WeightedLoss, network, step, wrapper

from alignmix_timm import AlignMixModel, Autoencoder, draw


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_names_of_parts_are_those_of_the_state_dict_and_of_timm(name: str) -> None:
    model, plain = wrapper(name, criterion=WeightedLoss()), network(name)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [key for key, _ in model.named_parameters()] == [
        *(key for key, _ in plain.named_parameters()),
        "criterion.scale",
    ]
    assert [key for key, _ in model.named_buffers()] == [*(key for key, _ in plain.named_buffers()), "criterion.weight"]
    assert {key for key, _ in plain.named_modules()} < {key for key, _ in model.named_modules()}
    for key, value in model.state_dict(keep_vars=True).items():
        parent, _, last = key.rpartition(".")
        assert getattr(model.get_submodule(parent), last) is value, key
    assert list(model.model.state_dict()) == list(plain.state_dict())  # nothing of the wrapper is in the network
    assert not [key for key, _ in model.model.named_modules() if "criterion" in key]


@pytest.mark.parametrize("variational", [False, True])
def test_names_of_an_autoencoder_are_those_of_its_state_dict(variational: bool) -> None:
    options = {"backbone": "test_vit", "img_size": 64, "backbone_args": {"img_size": 64}}
    encoder = timm.create_model("alignmix_encoder", num_classes=4, **options)
    model = Autoencoder(encoder, (3, 64, 64), variational=variational)
    names = {key for key, _ in [*model.named_parameters(), *model.named_buffers()]}
    assert names - {"mean", "std"} == set(model.state_dict())
    start = "classifier.net." if variational else "classifier."
    assert {f"{start}{key}" for key in encoder.state_dict()} < names


@pytest.mark.parametrize("through", ["deepcopy", "pickle"])
def test_a_copy_shares_parts_with_its_own_network(name: str, through: str) -> None:
    model = wrapper(name)
    copied = copy.deepcopy(model) if through == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert copied._modules is copied.model._modules is not model._modules
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not any(parameter.any() for parameter in copied.model.parameters())
    assert all(torch.equal(value, network(name).state_dict()[key]) for key, value in model.state_dict().items())


def test_parts_that_are_replaced_are_replaced_in_both() -> None:
    model = wrapper("test_vit")
    model.head = nn.Linear(64, 4)
    model.cls_token = nn.Parameter(torch.ones(1, 1, 64))
    model.model.norm = nn.Identity()
    assert model.model.head is model.get_submodule("head") is model.head
    assert model.model.cls_token is model.get_parameter("cls_token")
    assert model.get_submodule("norm") is model.model.norm
    del model.head
    assert not hasattr(model.model, "head")


def test_modes_precision_and_gradients_reach_network_and_criterion(name: str) -> None:
    model = wrapper(name, criterion=WeightedLoss())
    for training in (False, True):
        model.train(training)
        assert {module.training for module in [*model.modules(), model.model]} == {training}
    model.double()
    assert {value.dtype for value in [*model.model.parameters(), *model.criterion.parameters()]} == {torch.float64}
    model.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in [*model.model.parameters(), model.criterion.scale])
    model.to("meta")
    assert all(value.is_meta for value in [*model.model.parameters(), *model.model.buffers(), model.criterion.weight])
    model.to_empty(device="cpu").float().load_state_dict(network(name).state_dict())
    assert torch.equal(model.eval()(IMAGES).logits, network(name).eval()(IMAGES))


def test_hooks_on_the_state_dict_of_the_network_are_kept() -> None:
    net, seen = network("test_vit"), []
    net.register_state_dict_post_hook(lambda module, state, prefix, metadata: seen.append((module, prefix)))
    net.register_load_state_dict_pre_hook(lambda module, state, *_: state.update(pos_embed=state.pop("old_name")))
    model = AlignMixModel(net, input_size=(3, 64, 64))
    model.register_state_dict_pre_hook(lambda module, prefix, keep: seen.append("before"))
    state = nn.ModuleDict({"part": model}).state_dict()
    assert seen == ["before", (net, "part.")]
    state = {key.removeprefix("part."): value for key, value in state.items()}
    state["old_name"] = state.pop("pos_embed") + 1
    model.load_state_dict(state)
    assert torch.equal(net.pos_embed, network("test_vit").pos_embed + 1)


def test_the_network_stays_and_the_criterion_may_change() -> None:
    model = wrapper("test_resnet")
    with pytest.raises(AttributeError, match=r"network of a wrapper cannot be exchanged.*model\.model\.compile\(\)"):
        model.model = torch.compile(model.model)
    model.criterion = WeightedLoss()
    assert model.get_parameter("criterion.scale") is model.criterion.scale
    assert not hasattr(model.model, "criterion")
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted.criterion, WeightedLoss)
    assert not hasattr(converted.model, "criterion")
    kinds = {type(module).__name__ for module in converted.model.modules()}
    assert "SyncBatchNorm" in kinds
    assert "BatchNorm2d" not in kinds
    net = network("test_resnet")
    net.criterion = WeightedLoss()
    with pytest.raises(ValueError, match="model must have no submodule named 'criterion'"):
        AlignMixModel(net)


def test_a_network_with_a_part_of_its_own_called_model_trains_and_loads() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network("test_resnet")

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images)

    net = Wrapped()
    model = AlignMixModel(net, classifier="model.fc", num_classes=4, input_size=(3, 64, 64)).train()
    assert model.model is net
    assert list(model.state_dict()) == list(net.state_dict())
    before = net.model.fc.weight.clone()
    step(model, torch.optim.SGD(model.parameters(), 0.1))
    assert not torch.equal(net.model.fc.weight, before)
    model.load_state_dict(Wrapped().state_dict())
    assert torch.equal(net.model.fc.weight, before)


def test_parts_named_as_an_attribute_of_the_wrapper_are_found() -> None:
    """volo has a part called ``network``."""
    model = wrapper("test_resnet")
    with torch.device("meta"):
        model.network = timm.create_model("volo_d1_224").network
    assert model.get_submodule("network.0.0.norm1") is model.model.network[0][0].norm1


def test_functional_call_takes_the_state_dict(name: str) -> None:
    model, other = wrapper(name), network(name, seed=1)
    params = draw(4, 0, 0, modes=("feat",))
    found = functional_call(model, other.state_dict(), (IMAGES, LABELS, params)).logits
    assert torch.equal(found, AlignMixModel(other, input_size=(3, 64, 64)).train()(IMAGES, LABELS, params).logits)
    assert all(torch.equal(value, model.get_parameter(key)) for key, value in network(name).named_parameters())


def test_stacked_models_are_called_as_one(name: str) -> None:
    models = [wrapper(name, seed).eval() for seed in range(2)]
    parameters, buffers = stack_module_state(models)
    call = torch.vmap(lambda *state: functional_call(models[0], state, (IMAGES,)).logits)
    for found, model in zip(call(parameters, buffers), models, strict=True):
        torch.testing.assert_close(found, model(IMAGES).logits, rtol=1e-4, atol=1e-5)


def test_averaged_weights_are_those_of_the_network(name: str) -> None:
    model = wrapper(name)
    averaged = AveragedModel(model, use_buffers=True)
    averaged.update_parameters(model)
    step(model, torch.optim.SGD(model.parameters(), 0.1))
    averaged.update_parameters(model)
    plain = network(name)
    plain.load_state_dict(averaged.module.state_dict())
    for key, value in network(name).named_parameters():
        torch.testing.assert_close(plain.get_parameter(key), (value + model.get_parameter(key)) / 2)
    assert torch.equal(averaged.eval()(IMAGES).logits, plain.eval()(IMAGES))


def test_accelerate_loads_weights_of_timm_and_keeps_parameters_elsewhere(name: str, tmp_path: Path) -> None:
    model, other = wrapper(name).eval(), network(name, seed=1).eval()
    save_file(other.state_dict(), tmp_path / "model.safetensors")
    accelerate.load_checkpoint_in_model(model, str(tmp_path / "model.safetensors"))
    assert torch.equal(model(IMAGES).logits, other(IMAGES))
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.model.parameters())
    assert torch.equal(model(IMAGES).logits, other(IMAGES))


def test_timm_freezes_parts_by_name() -> None:
    model = wrapper("test_resnet")
    freeze(model, ["layer1"])
    frozen = {key for key, value in model.model.named_parameters() if not value.requires_grad}
    assert frozen == {key for key, _ in model.model.named_parameters() if key.startswith("layer1.")} != set()


def test_replicas_of_data_parallel_run_with_their_own_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the copy to a device is left out: the second replica gets other values instead."""
    module: Any = importlib.import_module("torch.nn.parallel.replicate")

    def copies(tensors: list[Tensor], devices: list[int], detach: bool = False) -> list[list[Tensor]]:
        return [
            [tensor + device * 0.1 if tensor.is_floating_point() else tensor for tensor in tensors]
            for device in devices
        ]

    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copies)
    monkeypatch.setattr(module, "_get_device_index", lambda device, optional=False: device)
    model = wrapper(name).eval()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for value in [*moved.parameters(), *moved.buffers()]:
            value += 0.1 if value.is_floating_point() else 0
    first, second = module.replicate(model, [0, 1])
    assert torch.equal(first(IMAGES).logits, model(IMAGES).logits)
    assert torch.equal(second(IMAGES).logits, moved(IMAGES).logits)
