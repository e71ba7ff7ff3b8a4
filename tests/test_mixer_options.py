"""Options of mixers: what they set, what a mixer says of itself, and mistakes, which are named."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.stats
import timm
import torch
from style import Identity

from alignmix_timm import AlignMix, AlignMixCollator, AlignMixModel, draw
from alignmix_timm.mixers import (
    MIXERS,
    AlignMixup,
    CutMix,
    InputMixup,
    ManifoldMixup,
    Mixer,
    NoMixing,
    OneOf,
    make_mixer,
)
from alignmix_timm.params import Place

LABELS = torch.arange(4)


def test_layers_are_drawn_uniformly_and_mixers_by_their_probabilities() -> None:
    layers = Counter(ManifoldMixup().draw(2, Place(0, step)).layer for step in range(3000))
    assert scipy.stats.chisquare([layers["input"], layers[1], layers[2]]).pvalue > 1e-3
    mixer = OneOf((InputMixup(), CutMix(), NoMixing()), probabilities=(3, 1, 0), prob=0.5, until=4000)
    labels = [mixer.draw(2, Place(1, step)).label for step in range(5000)]
    counts = Counter(labels[:4000])
    assert scipy.stats.chisquare([counts["none"], counts["mixup"], counts["cutmix"]], [2000, 1500, 500]).pvalue > 1e-3
    assert set(labels[4000:]) == {"none"}


PROPERTIES: list[tuple[Mixer, bool, bool]] = [
    (AlignMixup(), True, True),
    (AlignMixup(aligned=False), False, True),
    (AlignMixup(modes=("embed",)), False, True),
    (AlignMixup(modes=("input", "feat"), weights=(1, 0)), False, False),
    (AlignMixup(prob=0.0), False, False),
    (ManifoldMixup(), False, True),
    (ManifoldMixup(("input",)), False, False),
    (ManifoldMixup(prob=0.0), False, False),
    (InputMixup(), False, False),
    (CutMix(), False, False),
    (NoMixing(), False, False),
    (OneOf((CutMix(), AlignMixup())), True, True),
    (OneOf((CutMix(), AlignMixup()), np.array([1.0, 0.0])), False, False),
    (OneOf((ManifoldMixup(),), prob=0.0), False, False),
    (OneOf((AlignMixup(),), until=0), False, False),
]


@pytest.mark.parametrize(("mixer", "aligns", "inside"), PROPERTIES, ids=str)
def test_a_mixer_knows_whether_it_aligns_and_where_it_mixes(mixer: Mixer, aligns: bool, inside: bool) -> None:
    drawn = [mixer.draw(4, Place(0, step)) for step in range(60)]
    assert mixer.aligns == aligns == any(params.mixes_features and params.aligned for params in drawn)
    assert mixer.mixes_inside == inside == any(params.mode not in ("none", "input") for params in drawn)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cutmax", {}, "mixer must be one of alignmix, manifold, .* got 'cutmax'. Did you mean 'cutmix'?"),
        ("cutmix", {"alfa": 1}, "cutmix has no option 'alfa'; it has alpha, prob, .* Did you mean 'alpha'?"),
        ("none", {"alpha": 1}, "none has no option 'alpha'; it has none"),
        ("cutmix", {"alpha": 0}, "cutmix: alpha must be > 0, got 0"),
        ("cutmix", {"minmax": 0.3}, r"minmax must be two shares in \[0, 1\], the least first, got 0.3"),
        ("cutmix", {"minmax": [0.8, 0.2]}, r"minmax must be two shares .* got \[0.8, 0.2\]"),
        ("cutmix", {"minmax": [0.2]}, "minmax must be two shares"),
        ("mixup", {"prob": 2}, r"mixup: prob must be in \[0, 1\], got 2"),
        ("mixup", {"alpha": "much"}, "mixup: "),
        ("manifold", {"layers": "input"}, "manifold: layers must be a list of at least one, .* got 'input'"),
        ("manifold", {"layers": 1}, "layers must be a list of at least one, .* got 1"),
        ("manifold", {"layers": []}, "layers must be a list of at least one"),
        ("manifold", {"layers": [1, 1]}, r"each once, got \[1, 1\]"),
        ("alignmix", {"modes": ["feet"]}, "alignmix: modes must be chosen from"),
        ("alignmix", {"weights": [1]}, "alignmix: weights must be one number >= 0 for each"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mixer(name, **options)


def test_defaults_are_those_of_each_paper_and_alpha_is_one_option() -> None:
    """Of the released codes; the AlignMix paper trains all with alpha 2, and Cutout has none."""
    style = {"codec": Identity()}
    published = {
        "alignmix": (2, 1),
        "manifold": (2, 1),
        "mixup": (1, 1),
        "cutmix": (1, 1),
        "saliencymix": (1, 1),
        "puzzlemix": (1, 1),
        "comixup": (2, 1),
        "stylemix": (0.5, 0.2),
        "stylecutmix": (1, 0.5),
    }
    assert published.keys() == MIXERS.keys() - {"cutout", "none"}
    for name, (alpha, prob) in published.items():
        mixer = make_mixer(name, **(style if "style" in name else {}))
        assert (mixer.alpha, mixer.prob) == (alpha, prob)
        assert make_mixer(name, alpha=2, **(style if "style" in name else {})).alpha == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixers": ()}, "mixers must be at least one, of different names"),
        ({"mixers": (CutMix(), OneOf((CutMix(alpha=2.0),)))}, r"of different names, got \('cutmix', 'cutmix'\)"),
        ({"mixers": (CutMix(),), "probabilities": (1, 2)}, "probabilities must be one number >= 0 for each of 1"),
        ({"mixers": (CutMix(),), "probabilities": (0,)}, "probabilities must be .* not all 0"),
        ({"mixers": (CutMix(),), "prob": 1.5}, r"prob must be in \[0, 1\], got 1.5"),
        ({"mixers": (CutMix(),), "until": -1}, "until must be >= 0, or None, got -1"),
    ],
)
def test_wrong_mixtures_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OneOf(**options)


@pytest.mark.parametrize("drawn", [CutMix(), ManifoldMixup(("layer1",)), InputMixup()], ids=str)
def test_a_collator_of_another_mixer_than_the_model_is_named(drawn: Mixer) -> None:
    model = AlignMixModel(timm.create_model("test_resnet", num_classes=4), input_size=(3, 64, 64)).train()
    batch = AlignMixCollator(mixer=drawn)([(torch.zeros(3, 64, 64), label) for label in range(4)])
    with pytest.raises(
        ValueError, match=f"drawn by the mixer of the model, alignmix, got '{drawn.name}'. Pass the same"
    ):
        model(**batch)
    model.mixer = NoMixing()
    with pytest.raises(ValueError, match="drawn by the mixer of the model, none, got 'alignmix'"):
        model(torch.zeros(4, 3, 64, 64), LABELS, draw(4, 0, 0))
    assert model(torch.zeros(4, 3, 64, 64), LABELS, draw(4, 0, 0, prob=0)).loss.isfinite()


def test_layers_of_another_mixer_and_modules_that_do_not_exist_are_named() -> None:
    net = timm.create_model("test_resnet", num_classes=4)
    model = AlignMixModel(net, mixer=ManifoldMixup((1,)), input_size=(3, 64, 64)).train()
    params = ManifoldMixup((2,)).draw(4, Place(0, 0))
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"layer must be one that was hooked, \[1\], got 2. Give the model the mixer"
        ):
            model(torch.zeros(4, 3, 64, 64), LABELS, params)
    model.detach()
    for layer, message in (
        ("layer9", r"module 'layer9' does not exist in ResNet.* as a layer of a mixer, choose one of its blocks: \["),
        ("fc", "module 'fc' has no spatial positions"),
        (9, "layer must be the number of a stage, got 9: ResNet has 4 stages, layer1, layer2, layer3, layer4"),
        (0, "layer must be the number of a stage, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            AlignMix(net, mixer=ManifoldMixup((layer,)))
    with pytest.raises(ValueError, match="alpha must be an option of the mixer where one is given, not beside it"):
        AlignMix(net, mixer=CutMix(), alpha=1.0)
    with pytest.raises(ValueError, match="modes must be an option of the mixer"):
        AlignMixCollator(mixer=CutMix(), modes=("input",))
    AlignMix(net, mixer=ManifoldMixup()).detach()  # nothing was left behind
