"""Pictures of what alignment does: the autoencoder of a real run, decoded interpolations, the figures, the command."""

import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from decoding import fresh_autoencoder, train_autoencoder
from oracles import alignmix_loop, sinkhorn_loop
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from alignmix_timm import Autoencoder, assign
from alignmix_timm.evaluation.plotting import new_figure, save_figure
from alignmix_timm.paper.figures import (
    LAMS,
    cutmix,
    interpolations_figure,
    main,
    methods_figure,
    points_figure,
)
from alignmix_timm.paper.interpolations import interpolate
from alignmix_timm.paper.pairs import Pairs, draw_pairs, held_out_pairs
from alignmix_timm.paper.toy import toy_alignment
from alignmix_timm.publishing.save import load_for_timm
from alignmix_timm.training.data.transforms import data_config
from alignmix_timm.training.restore import load_autoencoder, saved_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_autoencoder(tmp_path_factory.mktemp("trained"), test=40)


def images(channels: int, count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, 32, 32, generator=torch.Generator().manual_seed(seed))


def tokens(model: Autoencoder, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        return model.net.features(pictures).flatten(2).mT


@torch.no_grad()
def reconstruct(model: Autoencoder, pictures: Tensor) -> Tensor:
    return model.decode(model.net.features(pictures))


def test_the_model_of_a_run_has_the_weights_of_its_last_checkpoint_or_of_the_one_given(trained: Path) -> None:
    model = load_autoencoder(trained)
    assert not model.training
    saved = load_file(trained / "last" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(images(1)).logits, load_for_timm(trained / "model").eval()(images(1)))
    earlier = load_autoencoder(trained / "checkpoints" / "step-00000002")
    assert not torch.equal(earlier.decoder.last.weight, model.decoder.last.weight)


def test_what_is_no_autoencoder_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be the folder of a checkpoint or of a run"):
        load_autoencoder(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(trained / "last", copy)
    config, weights = copy / "config.yaml", copy / "model.safetensors"
    text = config.read_text()
    config.write_text(text.replace("method: alignmix_ae", "method: alignmix").replace("- clean", "- feat"))
    with pytest.raises(ValueError, match="must be a run with a decoder, and was trained with --method alignmix"):
        load_autoencoder(copy)
    config.write_text(text.replace("decoder_width: 8", "decoder_width: 16"))
    with pytest.raises(ValueError, match=r"(?s)cannot be loaded.*size mismatch for decoder"):
        load_autoencoder(copy)
    config.write_text(text)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"weights in .*copy/model.safetensors cannot be loaded"):
        load_autoencoder(copy)


@pytest.mark.parametrize(("channels", "variational"), [(1, False), (3, True)])
def test_the_ends_of_an_interpolation(channels: int, variational: bool) -> None:
    model = fresh_autoencoder(channels, variational, epsilon=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = images(channels), images(channels, seed=1)
    unaligned, aligned = interpolate(model, first, second, LAMS)
    assert unaligned.shape == aligned.shape == (7, 3, channels, 32, 32)
    assert torch.equal(unaligned[0], reconstruct(model, first))
    assert torch.equal(aligned[0], reconstruct(model, first))
    assert torch.equal(unaligned[-1], reconstruct(model, second))
    assert not torch.allclose(aligned[-1], unaligned[-1], atol=1e-3)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_features_are_mixed_as_the_paper_says() -> None:
    model = fresh_autoencoder(3, epsilon=0.3)  # large enough for 20 iterations to converge
    first, second = images(3), images(3, seed=1)
    x, y = tokens(model, first), tokens(model, second)
    for lam in (0.0, 0.3):
        mixed = alignmix_loop(x, y, torch.full((3,), lam), epsilon=0.3).float().mT.reshape(3, -1, 4, 4)
        with torch.no_grad():
            expected = model.decode(mixed)
        assert torch.allclose(interpolate(model, first, second, [lam]).aligned[0], expected, atol=2e-4)
        assert not torch.allclose(interpolate(model, first, second, [lam]).unaligned[0], expected, atol=2e-3)


def test_an_identity_assignment_changes_nothing() -> None:
    model = fresh_autoencoder(3, epsilon=1e-3)
    first = images(3)
    near = first + 0.01 * images(3, seed=1)
    for second, identity in ((near, True), (near.flip(3), False)):
        assignment = assign(tokens(model, first), tokens(model, second), epsilon=1e-3).assignment
        assert torch.equal(assignment, torch.eye(16).expand(3, -1, -1)) is identity
        unaligned, aligned = interpolate(model, first, second, LAMS)
        assert torch.equal(unaligned, aligned) is identity


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in eval mode: call model.eval\(\)"):
        interpolate(fresh_autoencoder(1).train(), images(1), images(1), [0.5])


def test_pairs_differ_in_class_and_share_no_row() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 101).tolist()
    rows = draw_pairs(labels, 25, seed=0)
    assert rows.shape == (25, 2)
    assert len(set(rows.flat)) == 50
    assert all(labels[first] != labels[second] for first, second in rows)
    assert np.array_equal(draw_pairs(labels, 10, seed=0), rows[:10])
    assert not np.array_equal(draw_pairs(labels, 25, seed=1), rows)
    with pytest.raises(ValueError, match=r"pairs must be at most \d+, .* among 101 held-out rows, got 51"):
        draw_pairs(labels, 51, seed=0)


def test_pairs_are_images_of_the_test_split_as_the_run_normalised_them(trained: Path) -> None:
    config, net = saved_config(trained), load_autoencoder(trained).net
    pairs = held_out_pairs(net, config, 8, seed=0)
    rows = datasets.load_dataset(config.data, split="test")
    resample = Image.Resampling[data_config(net, config)["interpolation"].upper()]
    known = {}
    for row in rows:
        pixels = np.asarray(row["image"].resize((32, 32), resample))
        known[pixels.tobytes()] = rows.features["label"].names[row["label"]]
    for pictures, names in ((pairs.first, pairs.first_names), (pairs.second, pairs.second_names)):
        levels = ((pictures * 0.3 + 0.4) * 255).round().to(torch.uint8).numpy()
        assert [known.get(level.tobytes()) for level in levels] == names
    assert all(first != second for first, second in zip(pairs.first_names, pairs.second_names, strict=True))


def test_the_share_of_cutmix() -> None:
    mixed = cutmix(torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32), 0.25)
    assert mixed.mean().item() == pytest.approx(0.75, abs=0.02)
    assert mixed[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].sum() == 0


def some_pairs(channels: int) -> Pairs:
    return Pairs(images(channels, 2), images(channels, 2, seed=1), ["Bag", "Coat"], ["Boot", "Shirt"])


def shown(figure: object) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]  # type: ignore[attr-defined]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figures_show_the_images_grey_and_in_colour(channels: int) -> None:
    model, pairs = fresh_autoencoder(channels), some_pairs(channels)

    def displayed(image: Tensor) -> np.ndarray:
        return ((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy().squeeze()

    figure = methods_figure(model, pairs)
    cells = shown(figure)
    assert len(cells) == 12
    first, second = model.rescale(pairs.first), model.rescale(pairs.second)
    decoded = interpolate(model, pairs.first, pairs.second, [0.5])
    expected = [first[1], second[1], (first[1] + second[1]) / 2, cutmix(first, second, 0.5)[1]]
    for cell, image in zip(cells[6:], [*expected, decoded.unaligned[0, 1], decoded.aligned[0, 1]], strict=True):
        assert np.array_equal(cell, displayed(image))
    figure = interpolations_figure(model, pairs)
    cells = shown(figure)
    assert len(cells) == 2 * 4 * 9
    back = interpolate(model, pairs.second, pairs.first, LAMS)
    for row, images_of in ((6, back.unaligned), (7, back.aligned)):  # equation 13 of the second pair
        expected = [second[1], *images_of[:, 1], first[1]]
        line = cells[9 * row : 9 * row + 9]
        assert all(np.array_equal(cell, displayed(image)) for cell, image in zip(line, expected, strict=True))
    assert cells[0].shape == ((32, 32) if channels == 1 else (32, 32, 3))
    titles = [axes.get_title() for axes in figure.axes[:9]]
    assert titles == ["kept", *(f"lam {lam:.2f}" for lam in LAMS), "partner"]


def test_the_toy_example_is_aligned_as_the_paper_says() -> None:
    toy = toy_alignment(epsilon=0.1)
    x, y = toy.x.double().numpy(), toy.y.double().numpy()
    assignment = sinkhorn_loop(x, y, epsilon=0.1)
    assert np.allclose(toy.cost, ((x[:, None] - y[None]) ** 2).sum(2), atol=1e-5)
    assert np.allclose(toy.assignment, assignment, atol=1e-4)
    assert np.allclose(toy.x_aligned, assignment @ y, atol=1e-4)  # (10): A~ = A' R^T
    assert np.allclose(toy.y_aligned, assignment.T @ x, atol=1e-4)  # (11): A~' = A R
    default = toy_alignment()
    nearer = (default.x_aligned - default.x).norm(dim=1).mean() / (default.y - default.x).norm(dim=1).mean()
    assert nearer < 0.7
    assert len(points_figure().axes) == 7  # five panels, two of them with a colour bar


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("old")
    figure = new_figure(2, 2)
    figure.suptitle("$\\nothing$")
    with pytest.raises(ValueError, match="nothing"):
        save_figure(figure, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_command(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main([str(trained), "--out", str(tmp_path / "all"), "--pairs", "1"])
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "all").iterdir()}
    assert pictures.keys() == {"methods.png", "points.png", "interpolations.png"}
    assert all(data.startswith(b"\x89PNG") for data in pictures.values())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="error: cannot load split 'train' of"):
        main([str(trained), "--out", str(tmp_path / "none"), "--data", str(tmp_path / "empty")])
    assert not (tmp_path / "none").exists()
    main(["--out", str(tmp_path / "one")])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["points.png"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    with pytest.raises(SystemExit, match=r"error: pictures need matplotlib: pip install 'alignmix-timm\[plots\]'"):
        main(["--out", str(tmp_path / "none")])
