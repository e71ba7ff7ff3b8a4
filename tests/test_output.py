"""What a wrapped model returns, in the hands of those who take it apart."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.utils._pytree as pytree
from accelerate.utils import convert_to_fp32, recursively_apply, send_to_device
from torch import Tensor
from transformers import Trainer, TrainingArguments

from alignmix_timm import AlignMixCollator, AlignMixModel, AlignMixOutput
from alignmix_timm.mixers import CutMix, ManifoldMixup, OneOf


def output() -> AlignMixOutput:
    return AlignMixOutput(logits=torch.ones(2, 3), targets=torch.zeros(2, 3), loss=torch.tensor(4.0))


def same(one: object, other: AlignMixOutput) -> bool:
    pairs = zip(one.to_tuple(), other.to_tuple(), strict=True)
    return type(one) is AlignMixOutput and list(one) == list(other) and all(torch.equal(*pair) for pair in pairs)


def test_by_attribute_name_and_place() -> None:
    found = output()
    for place, name in enumerate(("loss", "logits", "targets")):
        assert found[name] is getattr(found, name) is found[place] is found.to_tuple()[place]
    assert found[-1] is found.targets
    assert found[:2] == (found.loss, found.logits)
    assert isinstance(found, dict)
    with pytest.raises(AttributeError, match="'AlignMixOutput' object has no attribute 'logit'"):
        found.logit  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'logit'"):
        found.logit = torch.ones(1)
    found.loss = found.loss / 2
    assert found["loss"] == found[0] == 2


def test_what_is_absent_is_left_out() -> None:
    found = AlignMixOutput(loss=None, logits=torch.ones(2, 3))
    assert list(found) == ["logits"]
    assert found.to_tuple() == (found.logits,)
    assert found[0] is found.logits
    assert found.loss is None
    assert found.targets is None
    with pytest.raises(KeyError):
        found["loss"]


def test_copies_and_those_who_rebuild_it_leave_it_what_it_is() -> None:
    found = output()
    rebuilt = [
        copy.copy(found),
        copy.deepcopy(found),
        pickle.loads(pickle.dumps(found)),
        pytree.tree_map(lambda value: value + 0, found),
        convert_to_fp32(found),
        send_to_device(found, "cpu"),
        recursively_apply(lambda value: value.clone(), found),
        type(found)((name, found[name]) for name in found),  # as DataParallel does
    ]
    assert all(same(one, found) for one in rebuilt)
    half = pytree.tree_map(lambda value: value.half(), found)
    assert [value.dtype for value in convert_to_fp32(half).values()] == [torch.float32] * 3


def test_a_loss_outside_the_wrapper_is_that_within() -> None:
    """Also for mixers that decide about the targets in the forward pass."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=4)
    mixer = OneOf((CutMix(), ManifoldMixup()))
    model, collator = AlignMixModel(net, mixer=mixer, label_smoothing=0.1).train(), AlignMixCollator(mixer=mixer)
    for _ in range(4):
        found = model(**collator([(torch.randn(3, 64, 64), label) for label in range(4)]))
        assert list(found) == ["loss", "logits", "targets"]
        outside = torch.nn.functional.cross_entropy(found.logits, found.targets)
        assert torch.equal(found.loss, outside)
        assert not found.targets.requires_grad


@pytest.mark.parametrize("labelled", [True, False])
def test_the_trainer_predicts_with_and_without_labels(tmp_path: Path, labelled: bool) -> None:
    torch.manual_seed(0)
    images = torch.randn(11, 3, 32, 32)
    rows = [{"image": image, "label": 0} if labelled else {"image": image} for image in images]
    net = timm.create_model("test_resnet", num_classes=10)
    options = TrainingArguments(
        str(tmp_path),
        per_device_eval_batch_size=4,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        use_cpu=True,
    )
    model = AlignMixModel(net, mixer=CutMix(), input_size=(3, 32, 32))
    found = Trainer(model, options, data_collator=AlignMixCollator(mixer=CutMix())).predict(rows)
    with torch.no_grad():
        logits = torch.cat([net.eval()(batch) for batch in images.split(4)])
    assert np.array_equal(found.predictions, logits.numpy())
    assert (found.label_ids is not None) == ("test_loss" in found.metrics) == labelled


def test_tensors_of_an_output_are_found_by_ddp() -> None:
    leaves, _ = pytree.tree_flatten(output())
    assert len(leaves) == 3
    assert all(isinstance(leaf, Tensor) for leaf in leaves)


def test_fsdp1_keeps_its_class() -> None:
    """It rebuilds what it maps over; a plain dictionary would have no attributes."""
    from torch.distributed.utils import _apply_to_tensors

    output = AlignMixOutput(loss=torch.ones(()), logits=torch.ones(2, 3), targets=torch.ones(2, 3))
    moved = _apply_to_tensors(lambda tensor: 2 * tensor, output)
    assert isinstance(moved, AlignMixOutput)
    assert moved.loss == 2
    assert list(moved) == ["loss", "logits", "targets"]
