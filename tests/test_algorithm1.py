"""Algorithm 1 of the paper, line by line in float64, against the models that train by it."""

import copy
from collections import Counter
from typing import Any

import pytest
import scipy.stats
import timm
import torch
import torch.nn.functional as F
from oracles import sinkhorn_loop
from torch import Tensor

import alignmix_timm
from alignmix_timm import MODES, Autoencoder, Encoder, MixParams, draw
from alignmix_timm.params import Place
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.mixing import build_mixer

BATCH, CLASSES, GRID, EPSILON = 6, 5, 4, 0.5
FIVE = (*MODES, "clean")


def encoder(embedding: str = "flatten") -> Encoder:
    torch.manual_seed(0)
    options = dict(embedding=embedding, embed_dim=32, img_size=32, num_classes=CLASSES, backbone_args={"width": 4})
    return timm.create_model("alignmix_encoder", backbone="preact_resnet18", **options)


def autoencoder(embedding: str = "flatten", **options: Any) -> Autoencoder:
    net = encoder(embedding)
    options = dict(decoder_width=8, epsilon=EPSILON, num_iters=300, **options)
    return Autoencoder(net, (3, 32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), **options).train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(BATCH, 3, 8, 8, generator=generator)
    return F.interpolate(coarse, size=32, mode="bilinear"), torch.randint(CLASSES, (BATCH,), generator=generator)


class Algorithm1:
    """The paper's networks F, f, g, D: F is a copy in float64, f and g are written out, D is in test_encoder.py.

    A is 64 numbers c x w x h, f and g are matrices. ``literal`` parameters: the drawn permutation and factors, before
    ``draw`` rewrites those of feat'.
    """

    def __init__(self, model: Autoencoder) -> None:
        self.model = copy.deepcopy(model).double()
        self.net = self.model.net
        self.backbone = self.net.features.backbone
        for handles in (module._forward_hooks for module in self.model.modules()):
            handles.clear()

    def F(self, images: Tensor) -> Tensor:  # noqa: N802
        return self.backbone(images.double())

    def f(self, feats: Tensor) -> Tensor:
        weight = self.net.embed.weight.flatten(1)  # d x (c h w)
        return feats.flatten(1) @ weight.T + self.net.embed.bias

    def g(self, embedding: Tensor) -> Tensor:
        return embedding @ self.net.head.weight.flatten(1).T + self.net.head.bias

    def losses(self, x: Tensor, y: Tensor, mode: str, pi: Tensor, lam: Tensor) -> Tensor:
        if mode == "clean":
            e = self.f(self.F(x))
            pixels = x.double() * torch.tensor([0.2, 0.3, 0.4]).double().view(3, 1, 1)
            pixels = pixels + torch.tensor([0.4, 0.5, 0.6]).double().view(3, 1, 1)
            return ((self.model.decoder.double()(e).double() - (2 * pixels - 1)) ** 2).flatten(1).mean(1)
        lam, onehot = lam.double(), F.one_hot(y, CLASSES).double()
        if mode == "input":
            mixed = torch.stack([lam[i] * x[i].double() + (1 - lam[i]) * x[pi[i]].double() for i in range(BATCH)])
            e = self.f(self.F(mixed))
        elif mode == "embed":
            plain = self.f(self.F(x))
            e = torch.stack([lam[i] * plain[i] + (1 - lam[i]) * plain[pi[i]] for i in range(BATCH)])
        else:
            tensors, mixed = self.F(x), []
            for i in range(BATCH):
                one, two = (i, int(pi[i])) if mode == "feat" else (int(pi[i]), i)  # line 17: SWAP
                a, a_prime = tensors[one].flatten(1), tensors[two].flatten(1)  # c x r
                r = sinkhorn_loop(a.detach().T.numpy(), a_prime.detach().T.numpy(), EPSILON)
                aligned = a_prime @ torch.from_numpy(r).T  # line 24
                mixed.append((lam[i] * a + (1 - lam[i]) * aligned).view_as(tensors[i]))
            e = self.f(torch.stack(mixed))
        losses = []
        for i in range(BATCH):
            one, two = (i, int(pi[i])) if mode != "feat_swap" else (int(pi[i]), i)
            target = lam[i] * onehot[one] + (1 - lam[i]) * onehot[two]
            losses.append(-(target * self.g(e[i : i + 1])[0].log_softmax(0)).sum())
        return torch.stack(losses)


def literal(mode: str, params: MixParams) -> tuple[Tensor, Tensor]:
    """The permutation and the factors as Algorithm 1 draws them: ``draw`` stores the inverse for feat'."""
    if mode != "feat_swap":
        return params.perm, params.lam
    inverse = params.perm.argsort()
    return inverse, params.lam[inverse]


@pytest.mark.parametrize("mode", FIVE)
def test_loss_and_gradients_are_those_of_the_algorithm(mode: str) -> None:
    model, (x, y) = autoencoder(), batch()
    oracle = Algorithm1(model)
    params = draw(BATCH, seed=3, step=0, modes=(mode,))  # type: ignore[arg-type]
    loss = model(x, y, params).loss
    loss.backward()
    expected = oracle.losses(x, y, mode, *literal(mode, params)).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found = dict(model.named_parameters())
    compared = 0
    for name, parameter in oracle.model.named_parameters():
        if parameter.grad is None:
            assert found[name].grad is None, name
            continue
        scale = parameter.grad.abs().max().item()
        assert (found[name].grad.double() - parameter.grad).abs().max().item() < 2e-4 * scale + 1e-7, name
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("embedding", ["flatten", "tensor"])
def test_variational_loss_by_torch_distributions(embedding: str) -> None:
    """The clean loss of AlignMix/VAE, and the mixed one: both halves are mixed, then sampled."""
    model, (x, y) = autoencoder(embedding, variational=True), batch()
    statistics = copy.deepcopy(model).classifier.model.statistics
    feats = copy.deepcopy(model.net.features).eval().train()
    mean, deviation = statistics(feats(x)).chunk(2, 1)
    torch.manual_seed(5)
    noise = torch.randn_like(deviation)
    torch.manual_seed(5)
    loss = model(x, y, draw(BATCH, 0, 0, modes=("clean",))).loss
    normal = torch.distributions.Normal(mean, deviation)
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum() / BATCH
    pixels = x * model.std + model.mean
    image = copy.deepcopy(model.decoder)((mean + deviation * noise).flatten(1))
    expected = F.mse_loss(image, 2 * pixels - 1) + divergence / (3 * 32 * 32)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)

    params = draw(BATCH, 2, 0, modes=("embed",))
    lam = params.lam.view(-1, 1, 1, 1)
    mean, deviation = (lam * part + (1 - lam) * part[params.perm] for part in (mean, deviation))
    logits = F.conv2d(mean + deviation * noise, model.net.head.weight, model.net.head.bias).flatten(1)
    torch.manual_seed(5)
    assert torch.allclose(model(x, y, params).logits, logits, atol=1e-4)


def test_tensor_embeddings_are_aligned() -> None:
    """Mode embed on E: aligned by its own plan, one per pair, or mixed position by position."""
    (x, y), params = batch(), draw(BATCH, 2, 0, modes=("embed",))
    for align_embedding in (False, True):
        model = autoencoder("tensor", align_embedding=align_embedding)
        tensors = model.net.embed(copy.deepcopy(model.net.features)(x)).detach()
        rows = []
        for i, partner in enumerate(params.perm.tolist()):
            e, other = tensors[i].flatten(1).double(), tensors[partner].flatten(1).double()
            if align_embedding:
                other = other @ torch.from_numpy(sinkhorn_loop(e.T.numpy(), other.T.numpy(), EPSILON)).T
            rows.append((params.lam[i] * e + (1 - params.lam[i]) * other).view(8, 2, 2))
        logits = F.conv2d(torch.stack(rows).float(), model.net.head.weight, model.net.head.bias).flatten(1)
        assert torch.allclose(model(x, y, params).logits, logits, atol=1e-4), align_embedding


def test_modes_are_uniform() -> None:
    counts = Counter(draw(4, 0, step, modes=FIVE).mode for step in range(5000))  # type: ignore[arg-type]
    assert set(counts) == set(FIVE)
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01
    config = TrainConfig(data="x", method="alignmix_ae", embedding="flatten", modes=["input", "embed"])
    mixer = build_mixer(config, steps_per_epoch=100)
    names = Counter(mixer.draw(2, Place(0, step)).label for step in range(3000))
    assert set(names) == {"input", "embed", "clean"}
    assert scipy.stats.chisquare(list(names.values())).pvalue > 0.01


def test_clean_steps_do_not_depend_on_whether_a_step_mixes() -> None:
    modes = []
    for options in (dict(), dict(mix_prob=0.5), dict(mix_off_epoch=1), dict(mixers=["alignmix", "cutmix"])):
        config = TrainConfig(data="x", method="alignmix_ae", embedding="flatten", **options)
        mixer = build_mixer(config, steps_per_epoch=50)
        modes.append([mixer.draw(2, Place(0, step)).mode for step in range(200)])
    clean = [[step for step, mode in enumerate(run) if mode == "clean"] for run in modes]
    assert clean[0] == clean[1] == clean[2] == clean[3]
    assert set(modes[2][50:]) == {"none", "clean"}


OPTIMIZERS = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_a_mode_leaves_out_does_not_move(optimizer: str, variational: bool) -> None:
    model, (x, y) = autoencoder(variational=variational), batch()
    steps = OPTIMIZERS[optimizer](model.parameters())
    for step, mode in enumerate((*FIVE, *FIVE)):  # the second time, the optimizer has momenta
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model(x, y, draw(BATCH, 0, step, modes=(mode,))).loss.backward()  # type: ignore[arg-type]
        left_out = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        steps.step()
        steps.zero_grad()
        kept = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
        part = "head." if mode == "clean" else "decoder."
        assert left_out == kept == {name for name in before if part in name}, mode


def test_reconstruction_under_autocast_is_in_fp32() -> None:
    for variational in (False, True):
        model, (x, y) = autoencoder(variational=variational), batch()
        losses = []
        for cast in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                losses.append(model(x, y, draw(BATCH, 0, 0, modes=("clean",))).loss)
        assert losses[1].dtype == torch.float32
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.02)


def test_clean_batches_of_one_image_are_reconstructed() -> None:
    assert draw(1, 0, 0, modes=("clean",)).mode == "clean"
    assert draw(1, 0, 0, modes=("feat",)).mode == "none"


def test_without_a_decoder_clean_is_refused() -> None:
    net = encoder()
    with pytest.raises(ValueError, match="modes must not hold 'clean'"):
        alignmix_timm.AlignMix(net, modes=FIVE)
    model = alignmix_timm.AlignMixModel(net, input_size=(3, 32, 32)).train()
    with pytest.raises(ValueError, match="modes must not hold 'clean'"):
        model(*batch(), draw(BATCH, 0, 0, modes=("clean",)))


def test_reconstruction_needs_no_labels_and_classification_does() -> None:
    model, (x, _) = autoencoder(), batch()
    assert model(x, mix=draw(BATCH, 0, 0, modes=("clean",))).loss.isfinite()
    for mode in ("embed", "none"):
        with pytest.raises(ValueError, match="training needs labels, and the batch has none: pass labels="):
            model(x, mix=draw(BATCH, 0, 0, modes=(mode,)))
