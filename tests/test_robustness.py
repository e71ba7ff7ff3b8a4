from collections.abc import Callable

import foolbox
import pytest
import torch
from foolbox.attacks import LinfFastGradientAttack, LinfProjectedGradientDescentAttack
from torch import Tensor, nn

from alignmix_timm.evaluation.robustness import METRICS, Attacked, fgsm, pgd, start_noise, summary

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE, CLASSES, ROWS = (3, 12, 12), 7, 24


def small_network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Without normalization of pixels, frozen and in eval mode, and easy to attack."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(72, CLASSES)).eval().requires_grad_(False).to(dtype)
    network[-1].weight.mul_(10)
    return network


def normalized(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Its logits of pixels in [0, 1]."""

    def logits(pixels: Tensor) -> Tensor:
        mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        return network((pixels - mean) / deviation)

    return logits


def some_images(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, with many at the bounds; labels, three in four of which the small network says as well; noise."""
    generator = torch.Generator().manual_seed(1)
    pixels = (1.4 * torch.rand(ROWS, *SHAPE, generator=generator) - 0.2).clamp(0, 1)
    labels = normalized(small_network())(pixels).argmax(1)
    labels[::4] = (labels[::4] + 1) % CLASSES
    return pixels.to(dtype), labels, start_noise(0, range(ROWS), SHAPE).to(dtype)


class PgdFrom(LinfProjectedGradientDescentAttack):
    """Foolbox's PGD, with its random start replaced by a given one before it is clipped."""

    def __init__(self, noise: Tensor, steps: int) -> None:
        super().__init__(abs_stepsize=2 / 255, steps=steps, random_start=True)
        self.noise = noise

    def get_random_start(self, x0, epsilon: float):
        return x0 + epsilon * type(x0)(self.noise)


def foolbox_model(network: nn.Module) -> foolbox.PyTorchModel:
    """It normalizes by itself."""
    return foolbox.PyTorchModel(network, (0, 1), "cpu", dict(mean=MEAN, std=DEVIATION, axis=-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fgsm_is_that_of_foolbox(dtype: torch.dtype) -> None:
    network, (pixels, labels, _) = small_network(dtype), some_images(dtype)
    attacked = fgsm(normalized(network), pixels, labels)
    theirs = LinfFastGradientAttack().run(foolbox_model(network), pixels, labels, epsilon=8 / 255)
    assert (attacked.pixels - theirs).abs().max() <= 1e-6
    with torch.no_grad():
        expected = [normalized(network)(images).argmax(1) == labels for images in (pixels, theirs)]
    assert torch.equal(attacked.correct, torch.stack(expected, 1))
    assert attacked.correct[:, 0].sum() > attacked.correct[:, 1].sum()


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pgd_follows_the_trajectory_of_foolbox(dtype: torch.dtype, start: int) -> None:
    """From the images and from a random start: each image of the trajectory, and what the network says of it."""
    network, (pixels, labels, noise) = small_network(dtype), some_images(dtype)
    whole = pgd(normalized(network), pixels, labels, start * noise)
    for steps in (1, 7, 10, 20):
        attacked = pgd(normalized(network), pixels, labels, start * noise, steps=steps)
        theirs = PgdFrom(start * noise, steps).run(foolbox_model(network), pixels, labels, epsilon=4 / 255)
        assert (attacked.pixels - theirs).abs().max() <= 1e-6
        assert torch.equal(whole.correct[:, : steps + 1], attacked.correct)
        with torch.no_grad():
            assert torch.equal(whole.correct[:, steps], normalized(network)(theirs).argmax(1) == labels)
    assert whole.correct[:, 0].sum() > whole.correct[:, -1].sum()


def test_fgsm_is_one_step_of_the_sign_and_one_step_of_pgd() -> None:
    network, (pixels, labels, noise) = normalized(small_network()), some_images()
    inputs = pixels.clone().requires_grad_()
    torch.nn.functional.cross_entropy(network(inputs), labels, reduction="sum").backward()
    literal = (pixels + 0.1 * inputs.grad.sign()).clamp(0, 1)
    assert torch.equal(fgsm(network, pixels, labels, 0.1).pixels, literal)
    assert torch.equal(pgd(network, pixels, labels, 0 * noise, radius=0.1, step=0.1, steps=1).pixels, literal)


def test_radius_zero_leaves_the_images() -> None:
    network, (pixels, labels, noise) = normalized(small_network()), some_images()
    with torch.no_grad():
        clean = network(pixels).argmax(1) == labels
    for attacked in (fgsm(network, pixels, labels, 0.0), pgd(network, pixels, labels, noise, radius=0.0, steps=3)):
        assert torch.equal(attacked.pixels, pixels)
        assert torch.equal(attacked.correct, clean[:, None].expand_as(attacked.correct))


@pytest.mark.parametrize("step", [2 / 255, 20 / 255])
def test_images_stay_within_the_radius_and_the_range(step: float) -> None:
    network, (pixels, labels, noise) = normalized(small_network()), some_images()
    attacked = pgd(network, pixels, labels, noise, step=step, steps=4)
    change = (attacked.pixels - pixels).abs()
    assert change.max() <= 4 / 255 + 1e-6
    assert attacked.pixels.min() >= 0
    assert attacked.pixels.max() <= 1
    assert (change > 3.9 / 255).float().mean() > 0.3


def test_more_steps_and_larger_radii_are_more_errors() -> None:
    network, (pixels, labels, noise) = normalized(small_network()), some_images()
    labels = network(pixels).argmax(1)
    error = 1 - pgd(network, pixels, labels, noise, radius=2 / 255, step=0.25 / 255, steps=12).correct.double().mean(0)
    assert error[0] < error[3] < error[-1]
    assert error.diff().min() > -2 / ROWS
    radii = [1 / 2550, 1 / 255, 8 / 255]
    errors = [int((~fgsm(network, pixels, labels, radius).correct[:, 1]).sum()) for radius in radii]
    assert errors[0] < errors[1] < errors[2]


def test_a_saturated_softmax_has_no_gradient() -> None:
    """Each image is classified as its label, with a softmax of exactly 1 in float32."""
    network, (pixels, _, noise) = normalized(small_network()), some_images()
    labels = network(pixels).argmax(1)

    def saturated(pixels: Tensor) -> Tensor:
        return 1e6 * network(pixels)

    for attacked in (fgsm(saturated, pixels, labels), pgd(saturated, pixels, labels, noise, radius=1e-6, steps=2)):
        assert attacked.zero_gradient.all()
        assert attacked.correct.all()
    assert torch.equal(fgsm(saturated, pixels, labels).pixels, pixels)
    wrong = (labels + 1) % CLASSES  # the gradient of a wrong label does not vanish
    assert not fgsm(saturated, pixels, wrong).zero_gradient.any()
    assert not fgsm(network, pixels, labels).zero_gradient.any()


def test_pixels_without_a_gradient_stay() -> None:
    def half_blind(pixels: Tensor) -> Tensor:
        return torch.stack([pixels[..., :6].mean((1, 2, 3)), 0 * pixels.mean((1, 2, 3))], 1)

    pixels, labels, _ = some_images()
    attacked = fgsm(half_blind, pixels, labels % 2)
    assert torch.equal(attacked.pixels[..., 6:], pixels[..., 6:])
    assert not torch.equal(attacked.pixels[..., :6], pixels[..., :6])
    assert not attacked.zero_gradient.any()
    blind = pgd(lambda pixels: torch.ones(len(pixels), 2) + 0 * pixels.sum(), pixels, labels % 2, 0 * pixels, steps=2)
    assert blind.zero_gradient.all()
    assert torch.equal(blind.pixels, pixels)


def test_a_tiny_gradient_does_not_vanish_in_a_large_batch() -> None:
    """Its mean over the batch would be less than the smallest float32."""
    pixels, labels, _ = some_images()
    attacked = fgsm(lambda pixels: 1e-44 * pixels[:, :2, 0, 0], pixels, labels % 2)
    assert not attacked.zero_gradient.any()


def test_images_with_nan_logits_are_wrong_and_reported_alone() -> None:
    network, (pixels, labels, noise) = normalized(small_network()), some_images()
    pixels[3] = 0

    def spoiled(pixels: Tensor) -> Tensor:
        black = (pixels.flatten(1).max(1).values < 0.1)[:, None]
        return network(pixels).masked_fill(black, float("nan"))

    sound, attacked = (pgd(logits, pixels, labels, noise, steps=2) for logits in (network, spoiled))
    assert attacked.nan_logits.nonzero().tolist() == [[3]]
    assert not attacked.correct[3].any()
    assert attacked.zero_gradient[3]
    assert attacked.pixels.isfinite().all()
    others = torch.arange(ROWS) != 3
    assert torch.equal(attacked.pixels[others], sound.pixels[others])
    assert torch.equal(attacked.correct[others], sound.correct[others])


def attack_in_parts(parts: list[Tensor], seed: int = 0) -> Attacked:
    """PGD on these rows, a batch each, put in the order of rows; ``seed`` is that of the start."""
    network, (pixels, labels, _) = normalized(small_network(torch.float64)), some_images(torch.float64)
    done = [
        pgd(network, pixels[rows], labels[rows], start_noise(seed, rows.tolist(), SHAPE), steps=4) for rows in parts
    ]
    order = torch.cat(parts).argsort()
    return Attacked(*(torch.cat(values)[order] for values in zip(*done, strict=True)))


def test_batches_order_and_processes_change_nothing() -> None:
    """Two processes are their two shares of the rows."""
    rows = torch.arange(ROWS)
    whole = attack_in_parts([rows])
    for parts in (list(rows.split(5)), list(rows.flip(0).split(11)), [rows[0::2], rows[1::2]]):
        part = attack_in_parts(parts)
        assert (part.pixels - whole.pixels).abs().max() <= 1e-9
        assert torch.equal(part.correct, whole.correct)
    assert not torch.equal(attack_in_parts([rows], 1).pixels, whole.pixels)


def test_start_noise_is_uniform_and_of_the_row_alone() -> None:
    noise = start_noise(5, [7, 2], (3, 50, 50))
    assert torch.equal(noise, start_noise(5, [2, 7, 9], (3, 50, 50))[[1, 0]])
    assert not torch.equal(noise[0], start_noise(6, [7], (3, 50, 50))[0])
    assert noise.dtype == torch.float32
    assert float(noise.min()) >= -1
    assert float(noise.max()) <= 1
    quarters = torch.histc(noise, 4, -1, 1) / noise.numel()
    assert torch.allclose(quarters, torch.tensor(0.25), atol=0.02)
    assert abs(float(torch.corrcoef(noise.flatten(1))[0, 1])) < 0.05
    assert start_noise(0, [], SHAPE).shape == (0, *SHAPE)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_network_is_left_as_it_was(mode: Callable) -> None:
    """Also where gradients of parameters have been accumulated, and where the caller takes none."""
    network, (pixels, labels, noise) = small_network().requires_grad_(), some_images()
    frozen = pgd(normalized(small_network()), pixels, labels, noise, steps=2)
    marks = [torch.full_like(parameter, 3.0) for parameter in network.parameters()]
    for parameter, mark in zip(network.parameters(), marks, strict=True):
        parameter.grad = mark
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with mode():
        attacked = pgd(normalized(network), pixels.clone(), labels, noise, steps=2)
    assert torch.equal(attacked.pixels, frozen.pixels)
    assert not attacked.pixels.requires_grad
    assert all(
        parameter.grad is mark and bool((mark == 3).all())
        for parameter, mark in zip(network.parameters(), marks, strict=True)
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


BAD = {
    "pixels must be floats .* in \\[0, 1\\], got torch.uint8": dict(pixels=torch.zeros(2, *SHAPE, dtype=torch.uint8)),
    "pixels must be .* divide bytes by 255": dict(pixels=torch.full((2, *SHAPE), 255.0)),
    "pixels must be .* \\(2, 12, 12\\)": dict(pixels=torch.zeros(2, 12, 12)),
    "pixels must be .* in \\[nan, nan\\]": dict(pixels=torch.full((2, *SHAPE), float("nan"))),
    "labels must be class indices \\[2\\]": dict(labels=torch.zeros(3, dtype=torch.long)),
    "labels must be in \\[0, 7\\).* got values in \\[0, 7\\]": dict(labels=torch.tensor([0, 7])),
    "labels must be in \\[0, 7\\).* got values in \\[-100, 0\\]": dict(labels=torch.tensor([0, -100])),
    "noise must be .* in \\[-1, 1\\]": dict(noise=torch.full((2, *SHAPE), 1.5)),
    "radius and step must be at least 0": dict(radius=-0.1),
    "radius and step must be .* finite": dict(step=float("nan")),
    "steps must be at least 1": dict(steps=0),
    "logits must be a network in eval mode": dict(logits=small_network().train()),
    "logits must be computed in float32, got torch.bfloat16": dict(
        logits=lambda pixels: pixels.mean((2, 3)).bfloat16()
    ),
    "logits must have a gradient": dict(logits=lambda pixels: torch.zeros(len(pixels), 7)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message: str) -> None:
    pixels = torch.full((2, *SHAPE), 0.5)
    good = dict(logits=small_network(), pixels=pixels, labels=torch.tensor([0, 6]), noise=0 * pixels, steps=1)
    pgd(**good)
    with pytest.raises(ValueError, match=message):
        pgd(**(good | BAD[message]))


def test_the_summary_counts_rows() -> None:
    network, (pixels, labels, noise) = normalized(small_network()), some_images()
    single, repeated = fgsm(network, pixels, labels), pgd(network, pixels, labels, noise, radius=1 / 255, steps=8)
    one_of_all = torch.arange(ROWS) == 5
    rows = dict(fgsm_correct=single.correct, pgd_correct=repeated.correct, nan_logits=one_of_all)
    rows |= dict(fgsm_zero_gradient=single.zero_gradient, pgd_zero_gradient=~one_of_all)
    values = summary(rows)
    assert values.keys() == {metric.key for metric in METRICS} - {"pgd10_error"}
    wrong = [
        sum(not bool(row[step]) for row in attack.correct)
        for attack, step in [(single, 0), (single, 1), (repeated, 7), (repeated, 8)]
    ]
    keys = ("clean_error", "fgsm_error", "pgd7_error", "pgd_error")
    assert [values[key] for key in keys] == pytest.approx([100 * count / ROWS for count in wrong])
    assert values["nan_logits"] == pytest.approx(100 / ROWS)
    assert values["pgd_zero_gradient"] == pytest.approx(100 - 100 / ROWS)
    assert values["fgsm_zero_gradient"] == 0
    with pytest.raises(ValueError, match="no row"):
        summary({key: value[:0] for key, value in rows.items()})


def test_the_metrics_are_named_once() -> None:
    assert len({metric.key for metric in METRICS}) == len({metric.label for metric in METRICS}) == len(METRICS)
