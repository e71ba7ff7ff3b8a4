"""Options and losses by another name or of another kind: the error says what is meant."""

from typing import Any

import pytest
import timm
import timm.loss
import torch
from torch import nn

from alignmix_timm import AlignMix, AlignMixCollator, AlignMixModel, draw, mix_targets
from alignmix_timm.mixers import AlignMixup

IMAGES, LABELS = torch.randn(4, 3, 32, 32), torch.arange(4)


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mixup_alpha": 0.8}, "unexpected option 'mixup_alpha': use alpha"),
        ({"cutmix_alpha": 1.0}, r"'cutmix_alpha': use mixer=alignmix_timm.mixers.CutMix\(alpha=...\)"),
        ({"switch_prob": 0.5}, "use mixer=alignmix_timm.mixers.OneOf"),
        ({"mode": "elem"}, "use per_example=True or False"),
        ({"alfa": 1}, "'alfa': the options are .*alpha, .*prob.* Did you mean 'alpha'?"),
    ],
)
def test_options_of_timms_mixup(option: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        AlignMix(network(), **option)
    with pytest.raises(TypeError, match=message):
        AlignMixCollator(**option)


def test_options_of_the_collator_given_to_the_model() -> None:
    with pytest.raises(TypeError, match="'modes': give it to AlignMixCollator"):
        AlignMixModel(network(), modes=("feat",))


@pytest.mark.parametrize("modes", ["feat", "input", "feats"])
def test_a_mode_that_is_no_list(modes: str) -> None:
    for make in (AlignMixCollator, AlignMixup, lambda modes: AlignMix(network(), modes=modes)):
        with pytest.raises(
            ValueError, match=rf"modes must be a list of modes, got '{modes}'. Write modes=\['{modes}'\]"
        ):
            make(modes=modes)
    with pytest.raises(ValueError, match=r"modes must be a list of modes, got \{'feat'\}.$"):
        AlignMixCollator(modes={"feat"})


@pytest.mark.parametrize("weights", [1, "1", [[1]], [1, 2]])
def test_weights_that_are_not_one_for_each_mode(weights: Any) -> None:
    with pytest.raises(ValueError, match="weights must be one number >= 0 for each"):
        AlignMixCollator(modes=["feat"], weights=weights)


@pytest.mark.parametrize(
    "criterion",
    [nn.NLLLoss(), nn.MultiMarginLoss(), timm.loss.LabelSmoothingCrossEntropy(), nn.functional.nll_loss],
    ids=["NLLLoss", "MultiMarginLoss", "LabelSmoothingCrossEntropy", "nll_loss"],
)
def test_a_loss_of_class_indices(criterion: Any) -> None:
    model = AlignMixModel(network(), criterion, input_size=(3, 32, 32))
    name = getattr(criterion, "__name__", type(criterion).__name__)
    message = rf"must take dense float targets \[B, C\], got {name}, which takes class indices"
    for training in (True, False):
        with pytest.raises(ValueError, match=message):
            model.train(training)(IMAGES, LABELS, draw(4, 0, 0))


def test_a_loss_that_fails_for_its_own_reasons_says_so() -> None:
    model = AlignMixModel(network(), nn.CrossEntropyLoss(torch.ones(3)), input_size=(3, 32, 32)).train()
    with pytest.raises(RuntimeError, match="weight"):
        model(IMAGES, LABELS, draw(4, 0, 0))


def test_the_drop_in_repeats_a_draw_and_says_what_it_drew() -> None:
    """As the two forward passes of SAM need it."""
    net = network().train()
    mixup_fn = AlignMix(net, input_size=(3, 32, 32), seed=5)
    assert mixup_fn.params is None
    for step in range(8):
        logits = []
        for _ in range(2):
            mixup_fn.step = step if not logits else mixup_fn.step - 1
            images, targets = mixup_fn(IMAGES, LABELS)
            logits.append((net(images), targets))
        expected = draw(4, 5, step)
        assert (mixup_fn.params.mode, mixup_fn.step) == (expected.mode, step + 1)
        assert torch.equal(mixup_fn.params.lam, expected.lam)
        assert torch.equal(mixup_fn.params.perm, expected.perm)
        assert torch.equal(logits[0][1], logits[1][1])
        assert torch.equal(logits[0][0], logits[1][0])


def test_a_teacher_of_unmixed_images_gives_targets_that_are_mixed(caplog: pytest.LogCaptureFixture) -> None:
    """As in distillation; and the drop-in says that a teacher of the same images would not see what is mixed inside."""
    net, teacher = network().train(), network().eval()
    with caplog.at_level("INFO"):
        AlignMix(net, input_size=(3, 32, 32), modes=["input"]).hooks.detach()
        assert "teacher" not in caplog.text
        mixup_fn = AlignMix(net, input_size=(3, 32, 32))
    assert "a teacher of the same images would see them unmixed" in caplog.text
    with torch.no_grad():
        for _ in range(4):
            known = teacher(IMAGES).softmax(1)
            images, targets = mixup_fn(IMAGES, known)
            net(images)
            assert torch.equal(targets, mix_targets(known, mixup_fn.params.perm, mixup_fn.params.lam))


def test_half_a_batch_with_the_parameters_of_the_whole_names_data_parallel() -> None:
    model = AlignMixModel(network(), input_size=(3, 32, 32)).train()
    whole = AlignMixCollator()(list(zip(IMAGES, LABELS, strict=True)))
    with pytest.raises(ValueError, match=r"for 4 examples, the batch has 2.* DataParallel .* use accelerate launch"):
        model(IMAGES[:2], LABELS[:2], whole["mix"])
