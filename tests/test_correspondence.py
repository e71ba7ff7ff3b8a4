"""Whether objects are matched to objects: the measure, boxes on the positions of a map, and the command."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from launcher import ROOT
from PIL import Image, ImageDraw
from torch import Tensor

from alignmix_timm import choose_point
from alignmix_timm.alignment import Alignment, pool_blocks
from alignmix_timm.evaluation.bootstrap import FEWEST_MEMBERS, bootstrap, bootstrap_dyads
from alignmix_timm.evaluation.correspondence import correspondence_score, measurable
from alignmix_timm.points import neighbouring_points
from alignmix_timm.points.__main__ import create_without_data, main
from alignmix_timm.points.advice import advise, draw_pairs, measure_photos
from alignmix_timm.points.photos import Photo, PhotoData, boxes_in_crop, cropped, read_photo
from alignmix_timm.points.positions import Positions, tokens_at

SHARED = ROOT.parent / "shared"


def masks(*marked: set[int], positions: int = 6) -> Tensor:
    return torch.tensor([[position in one for position in range(positions)] for one in marked])


def test_known_answers() -> None:
    first, second = masks({0, 1}, {0, 1, 2}), masks({0, 1}, {3, 4, 5})
    identity, uniform = torch.eye(6).expand(2, -1, -1), torch.full((2, 6, 6), 1 / 6)
    reverse = identity.flip(2)
    assert correspondence_score(identity, first, second).tolist() == pytest.approx([1, -1])
    assert correspondence_score(reverse, first, second).tolist() == pytest.approx([-0.5, 1])
    assert correspondence_score(uniform, first, second).tolist() == pytest.approx([0, 0], abs=1e-7)


def test_one_is_the_best_that_the_marginals_allow_and_objects_may_differ_in_size() -> None:
    small, large = masks({0}), masks({0, 1, 2})
    identity = torch.eye(6)[None]
    assert correspondence_score(identity, small, large).item() == pytest.approx(1)  # all of the smaller
    assert correspondence_score(identity, large, small).item() == pytest.approx(1)
    wide = torch.full((1, 2, 6), 0.0)  # two positions matched to six: columns sum to 1/3
    wide[0, 0, :3] = wide[0, 1, 3:] = 1 / 3
    assert correspondence_score(wide, torch.tensor([[True, False]]), masks({0, 1})).item() == pytest.approx(1)
    assert correspondence_score(wide, torch.tensor([[True, False]]), masks({3, 4})).item() == pytest.approx(-1)


def test_the_score_is_that_of_a_literal_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 12, 8, generator=generator)
    first, second = torch.rand(2, 5, 12, generator=generator) < 0.4
    first[:, 0], second[:, 0], first[:, 1], second[:, 1] = True, True, False, False
    assignment = Alignment(num_iters=400).transport(x, y).assignment
    expected = []
    for pair in range(5):
        size, other = int(first[pair].sum()), int(second[pair].sum())
        matched = 0.0
        for i in range(12):
            for j in range(12):
                if first[pair, i] and second[pair, j]:
                    matched += float(assignment[pair, i, j])
        chance, best = size * other / 12, min(size, other)
        expected.append((matched - chance) / (best - chance))
    score = correspondence_score(assignment, first, second)
    assert score.dtype == torch.float64
    assert score.tolist() == pytest.approx(expected, abs=1e-9)


def test_an_object_that_covers_nothing_or_everything_is_refused() -> None:
    some, none, every = masks({1}), masks(set()), masks(set(range(6)))
    assert measurable(torch.cat([some, none, every])).tolist() == [True, False, False]
    for first, second, name in ((none, some, "first"), (some, none, "second"), (some, every, "second")):
        with pytest.raises(
            ValueError, match=rf"^{name} must mark some positions of each image, and not all, got \[\d\]"
        ):
            correspondence_score(torch.eye(6)[None], first, second)
    with pytest.raises(ValueError, match=r"must be \[B, N, M\], \[B, N\] and \[B, M\], got \(1, 6, 6\), \(2, 6\)"):
        correspondence_score(torch.eye(6)[None], masks({1}, {1}), some)


def test_the_interval_follows_from_the_seed_and_holds_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.2, (200, 1))
    ((mean, low, high),) = bootstrap(values, seed=1, resamples=500)
    assert [(mean, low, high)] == bootstrap(values, seed=1, resamples=500) != bootstrap(values, seed=2, resamples=500)
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * 0.2 / 200**0.5, rel=0.2)


def scored_pairs(members: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 300 pairs, [300, 1], that depend on both members and on the pair, with mean 0; and the pairs."""
    rng, pairs = np.random.default_rng(seed), draw_pairs(members, 300, seed).numpy()
    first, second = rng.normal(size=(2, members))
    return (first[pairs[:, 0]] + second[pairs[:, 1]] + rng.normal(size=300))[:, None], pairs


def test_intervals_over_members_hold_the_mean_of_all_pairs() -> None:
    held = {"members": 0, "pairs": 0}
    for seed in range(200):
        values, pairs = scored_pairs(50, seed)
        ((mean, low, high),) = bootstrap_dyads(values, pairs, seed, resamples=400)
        held["members"] += low < 0 < high
        assert mean == values.mean()
        ((_, low, high),) = bootstrap(values, seed, resamples=400)
        held["pairs"] += low < 0 < high
    assert 0.9 <= held["members"] / 200 <= 0.99
    assert held["pairs"] / 200 < 0.8


def test_members_drawn_again_are_those_of_a_literal_loop() -> None:
    values, pairs = scored_pairs(12, 0)
    values, pairs, rng, means = values[:30], 3 * pairs[:30], np.random.default_rng(1), []
    for _ in range(4000):
        drawn = list(3 * rng.integers(0, 12, 12))
        resampled = [
            v for v, (i, j) in zip(values[:, 0], pairs, strict=True) for a in drawn if a == i for b in drawn if b == j
        ]
        means.append(np.mean(resampled))
    (found,) = bootstrap_dyads(values, pairs)
    assert found[1:] == pytest.approx(np.quantile(means, (0.025, 0.975)).tolist(), abs=0.04)
    assert [found] == bootstrap_dyads(values, pairs)


def test_resamples_without_a_pair_are_left_out_and_few_members_have_no_interval() -> None:
    pairs = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]])
    (found,) = bootstrap_dyads(np.arange(5.0)[:, None], pairs)
    assert 0 <= found.low < found.mean == 2 < found.high <= 4
    (few,) = bootstrap_dyads(np.arange(4.0)[:, None], pairs[:4])
    assert len(np.unique(pairs[:4])) < FEWEST_MEMBERS
    assert few.mean == 1.5
    assert np.isnan(few[1:]).all()


def drawn(width: int, height: int, box: tuple[int, int, int, int]) -> Photo:
    """A white rectangle on black."""
    image = Image.new("RGB", (width, height))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="white")
    return Photo(image, torch.tensor([box], dtype=torch.float64))


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (64, 64, (16, 8, 40, 48)),
        (320, 200, (130, 20, 250, 140)),
        (150, 400, (20, 60, 90, 260)),
        (301, 99, (0, 0, 140, 99)),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (96, 64)])
def test_boxes_are_where_the_drawn_rectangle_is_in_the_input(
    width: int, height: int, box: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    photo = drawn(width, height, box)
    pixels = cropped(photo.image, 3, *size)
    assert pixels.shape == (3, *size)
    columns, rows = pixels[0].mean(0), pixels[0].mean(1)
    x0, y0, x1, y1 = (boxes_in_crop(photo, *size)[0].clamp(0, 1) * torch.tensor([size[1], size[0]] * 2)).tolist()
    expected = (x1 - x0) * (y1 - y0) / (size[0] * size[1])
    assert pixels[0].mean().item() == pytest.approx(expected, abs=0.02)
    for profile, low, high in ((columns, x0, x1), (rows, y0, y1)):
        center = (profile * (torch.arange(len(profile)) + 0.5)).sum() / profile.sum()
        assert center.item() == pytest.approx((low + high) / 2, abs=0.3)


@pytest.mark.parametrize(("image", "max_positions"), [((3, 224, 224), 196), ((3, 160, 256), 196), ((3, 224, 160), 30)])
def test_a_position_belongs_to_the_object_if_half_of_it_does(image: tuple[int, int, int], max_positions: int) -> None:
    """Against the share of white pixels in each position, also where positions are blocks, clipped at the edge."""
    _, height, width = image
    alignment = Alignment(max_positions=max_positions)
    places = Positions.of(choose_point(create_without_data("resnet18"), image, "layer2"), alignment)
    for box in ((30, 40, 130, 100), (0, 0, 9, 9), (101, 3, 160, 153), (50, 60, 52, 61)):
        photo = drawn(width, height, box)
        pixels = cropped(photo.image, 3, height, width)[:1]
        cells = torch.nn.functional.avg_pool2d(pixels, 8)
        share = pool_blocks(cells.flatten(1)[..., None], places.point.map_size, places.block)[0, :, 0]
        sure = (share - 0.5).abs() > 1e-3
        found = places.inside(boxes_in_crop(photo, height, width))
        assert len(found) == len(places) == places.grid[0] * places.grid[1] <= 196
        assert torch.equal(found[sure], share[sure] > 0.5)
    both = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    assert torch.equal(places.inside(both), places.inside(both[:1]) | places.inside(both[1:]))
    assert not places.inside(both[:0]).any()


def test_tokens_are_those_that_the_model_aligns() -> None:
    net = timm.create_model("test_vit", num_classes=4).eval()
    images = torch.randn(5, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    places = [Positions.of(point, Alignment()) for point in neighbouring_points(net, (3, 160, 160))]
    found = tokens_at(net, places, images, batch_size=2)
    outputs: list[Tensor] = []
    for place, tokens in zip(places, found, strict=True):
        handle = net.get_submodule(place.point.feature_module).register_forward_hook(lambda m, a, o: outputs.append(o))
        with torch.no_grad():
            net(images)
        handle.remove()
        assert torch.allclose(tokens, outputs.pop()[:, place.point.layout.num_prefix :], atol=1e-5)
        assert not net.get_submodule(place.point.feature_module)._forward_hooks


def test_the_candidates_are_the_default_point_and_its_neighbours() -> None:
    def names(model: str, size: int) -> list[str]:
        return [point.feature_module for point in neighbouring_points(create_without_data(model), (3, size, size))]

    assert names("resnet18", 224) == ["layer3.1", "layer4.0", "layer4.1"]
    assert names("test_resnet", 32) == ["layer1.0", "layer2.0"]  # what follows has 2 x 2 positions
    assert names("tf_efficientnet_lite0", 224) == ["blocks.4.2", "blocks.5.2", "blocks.5.3", "blocks.6.0"]


def test_each_photo_is_in_as_many_pairs_as_any_other() -> None:
    pairs = draw_pairs(10, 15, seed=0)
    assert pairs.shape == (15, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert pairs.flatten().bincount().tolist() == [3] * 10
    assert torch.equal(pairs[:5], draw_pairs(10, 5, seed=0))
    assert not torch.equal(pairs, draw_pairs(10, 15, seed=1))
    assert len(draw_pairs(3, 7, seed=0)) == 7


def photos(count: int = 12) -> tuple[list[Image.Image], list[list[list[float]]]]:
    """A coloured square somewhere on grey noise, and its box."""
    rng, images, boxes = np.random.default_rng(0), [], []
    for _ in range(count):
        pixels = rng.integers(100, 130, (96, 128, 3), dtype=np.uint8)
        x, y = rng.integers(20, 60), rng.integers(4, 44)
        pixels[y : y + 40, x : x + 40] = (220, 30, 30)
        images.append(Image.fromarray(pixels))
        boxes.append([[float(x), float(y), float(x + 40), float(y + 40)]])
    return images, boxes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photos with boxes in each of the usual forms."""
    folder = tmp_path_factory.mktemp("photos") / "saved"
    images, boxes = photos()
    coco = [[[x, y, last_x - x, last_y - y] for x, y, last_x, last_y in row] for row in boxes]
    columns = {
        "image": images,
        "boxes": boxes,
        "objects": [{"bbox": row, "category": [0] * len(row)} for row in coco],
        "listed": [[{"bbox": box} for box in row] for row in boxes],
        "area": [1600.0 for _ in boxes],
        "caption": ["a square" for _ in boxes],
        "levels": [np.asarray(image) for image in images],
        "mask": [{"bytes": b"no image", "path": None} for _ in boxes],
        "none": [[] for _ in boxes],
        "outside": [[[200.0, 10.0, 240.0, 40.0]] for _ in boxes],
        "ragged": [[[1.0, 2.0, 3.0]] for _ in boxes],
    }
    saved = datasets.Dataset.from_dict(columns)
    for name in ("image", "mask"):
        saved = saved.cast_column(name, datasets.Image())
    saved.save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path)
    return path


def test_boxes_are_read_in_each_form(data: Path) -> None:
    plain = PhotoData(str(data), boxes="boxes")
    for other in (
        PhotoData(str(data), boxes="objects.bbox", box_format="xywh"),
        PhotoData(str(data), boxes="listed.bbox"),
    ):
        assert all(torch.equal(plain[row].boxes, other[row].boxes) for row in range(len(plain)))
    assert plain[0].boxes.tolist() == photos()[1][0]
    assert PhotoData(str(data))[0].boxes.shape == (0, 4)
    stored = PhotoData(str(data), image_column="levels")[3].image
    assert np.array_equal(stored, plain[3].image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"boxes": "outside"},
            r"boxes must lie in the image, xyxy in pixels, got \[200.0, 10.0, .* in row 0, .* 128 x 96",
        ),
        ({"boxes": "ragged"}, r"boxes must have four finite numbers each, got \[1.0, 2.0, 3.0\] in row 0"),
        (
            {"boxes": "objects.bbox"},
            r"xyxy in pixels, got .*: xyxy is the upper left and the lower right corner, xywh the",
        ),
        ({"boxes": "objects.box"}, "boxes must be a column or a field of one, got 'objects.box', whose 'box' is none"),
        ({"boxes": "bbox"}, r"boxes must be one of the columns \['image', 'boxes', .* got 'bbox'"),
        ({"image_column": "photo"}, r"image_column must be one of the columns .* got 'photo'"),
        ({"image_column": "area"}, "image_column 'area' must hold images, it holds Value"),
        ({"image_column": "boxes"}, "image_column 'boxes' must hold images, it holds (List|Sequence|\\[)"),
        ({"image_column": "objects"}, "image_column 'objects' must hold images, it holds "),
        ({"image_column": "mask"}, "the image of row 0 cannot be read: cannot identify image file"),
        ({"image_column": "caption"}, "the image of row 0 cannot be read: .*No such file"),
    ],
)
def test_wrong_boxes_and_columns_are_refused(data: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(PhotoData(str(data), **options))  # type: ignore[arg-type]


def test_an_image_is_read_upright_and_deep_ones_keep_their_levels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.new("RGB", (40, 20)).save(tmp_path / "side.jpg", exif=exif)
    assert read_photo(tmp_path / "side.jpg").size == (20, 40)
    levels = np.arange(256, dtype=np.float64).reshape(16, 16)
    (tmp_path / "16.pgm").write_bytes(b"P5 16 16 65535\n" + (levels * 257).astype(">u2").tobytes())
    for name, pixels in (("16.png", levels * 257), ("16.tiff", levels * 257), ("float.tiff", levels / 255)):
        Image.fromarray(pixels.astype("<f4" if name == "float.tiff" else "<u2")).save(tmp_path / name)
    Image.fromarray((levels * 257).astype(">u2")).save(tmp_path / "big.tiff")
    Image.fromarray((levels * 2**22).astype("<i4")).save(tmp_path / "32.tiff")
    for name in ("16.pgm", "16.png", "16.tiff", "big.tiff", "float.tiff"):
        for channels in (1, 3):
            found = cropped(read_photo(tmp_path / name), channels, 16, 16)
            assert torch.allclose(found[0] * 255, torch.from_numpy(levels).float(), atol=1.01), name
    with pytest.raises(
        ValueError, match=r"32.tiff, which cannot be read as one: its signed or 32-bit integers, from 0"
    ):
        read_photo(tmp_path / "32.tiff")
    (tmp_path / "good").mkdir()
    for kind in ("16.png", "float.tiff"):
        (tmp_path / kind).rename(tmp_path / "good" / kind)
    data = PhotoData(str(tmp_path / "good"))
    assert [np.abs(np.asarray(photo.image)[..., 1] - levels).max() <= 1 for photo in data] == [True, True]  # type: ignore
    (tmp_path / "32.tiff").rename(tmp_path / "good" / "0.tiff")
    with pytest.raises(ValueError, match="the image of row 0 cannot be read: its signed or 32-bit integers"):
        PhotoData(str(tmp_path / "good"))[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_images_of_other_modes_are_as_pillow_converts_them(mode: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    stored = image.convert("RGB").convert(mode) if mode in ("P", "CMYK") else image.convert(mode)
    stored.save(tmp_path / "image.tiff", compression="tiff_lzw")
    for channels, kind in ((1, "L"), (3, "RGB")):
        found = cropped(read_photo(tmp_path / "image.tiff"), channels, 24, 24)
        expected = torch.from_numpy(np.array(stored.convert(kind))).view(24, 24, channels).permute(2, 0, 1)
        assert torch.equal((found * 255).round(), expected.float()), channels


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_command_measures_places_by_photos(data: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["test_resnet", "--weights", str(weights), "--images", str(data), "--image-size", "32", "--pairs", "20"]
    main([*command, "--boxes", "boxes", "--epsilon", "0.05", "0.5"])
    out = capsys.readouterr().out
    assert "test_resnet at images of (3, 32, 32), 20 pairs of 12 photos." in out
    header, _, *rows = table(out)
    assert header[-3:] == ["object on object, aligned", "same position", "difference"]
    net = timm.create_model("test_resnet", num_classes=3).eval()
    net.load_state_dict(safetensors.torch.load_file(weights))
    points = neighbouring_points(net, (3, 32, 32))
    default = choose_point(net, (3, 32, 32)).feature_module
    names = [point.feature_module + (" (default)" if point.feature_module == default else "") for point in points]
    assert [row[0] for row in rows] == [name for name in names for _ in range(2)]
    assert [row[2] for row in rows] == ["0.05", "0.5"] * len(points)
    sharp, soft = (float(row[3]) for row in rows[:2])
    assert 1 <= sharp < soft
    alignments = [Alignment(epsilon=0.05)]
    places = [Positions.of(point, alignments[0]) for point in points]
    measured = measure_photos(net, PhotoData(str(data), boxes="boxes"), places, 40, 0)
    advice = list(advise(net, measured, places, alignments, draw_pairs(12, 20, 0)))
    for row, expected in zip(rows[::2], advice, strict=True):
        assert expected.aligned is not None
        assert row[5].startswith(f"{expected.aligned.mean:.2f} [{expected.aligned.low:.2f}, ")
        assert expected.unaligned is not None
        assert expected.gain is not None
        assert expected.gain.mean == pytest.approx(expected.aligned.mean - expected.unaligned.mean)
        assert expected.gain.low <= expected.gain.mean <= expected.gain.high
    assert "No intervals" not in out
    main([*command, "--places", default])
    assert len(table(capsys.readouterr().out)[0]) == 5
    main([*command[:-1], "4", "--places", default, "--boxes", "boxes"])
    out = capsys.readouterr().out
    assert [cell.count("[") for cell in table(out)[2][5:]] == [0, 0, 0]
    assert out.endswith(
        "No intervals: 8 photos are too few to tell how scores vary between photos, at least 10 are needed.\n"
    )


def test_what_cannot_be_measured_is_said_in_a_sentence(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["test_resnet", "--weights", str(weights), "--images", str(data), "--image-size", "64"]
    wrong = [
        (
            [*command, "--boxes", "none"],
            "images must be at least two photos, and boxes that hold at least half of some",
        ),
        ([*command, "--boxes", "outside"], "boxes must lie in the image"),
        ([*command, "--places", "layer9"], "'layer9' does not exist in ResNet"),
        ([*command, "--epsilon", "0"], "epsilon must be > 0"),
        ([*command[:4], str(tmp_path / "no"), *command[5:]], "cannot load split 'train'"),
        ([*command[:2], str(tmp_path / "no"), *command[3:]], "weights must be a file"),
        (["crossvit_9_240", "--images", str(data), "--weights", str(weights)], "cannot be loaded"),
        (["test_resnt", *command[1:]], "Did you mean 'test_resnet"),
    ]
    for arguments, message in wrong:
        with pytest.raises(SystemExit, match=message) as caught:
            main(arguments)
        assert str(caught.value).startswith("error: ")
    for arguments in ([*command, "--all"], [*command, "--pairs", "0"], ["test_vit", *command]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "raccoon").exists(), reason="needs the photos in shared/data/raccoon")
def test_alignment_finds_the_object_on_photos_of_raccoons(capsys: pytest.CaptureFixture[str]) -> None:
    weights, data = SHARED / "weights" / "tf_efficientnet_lite0.safetensors", SHARED / "data" / "raccoon"
    command = ["tf_efficientnet_lite0", "--weights", str(weights), "--images", str(data), "--boxes", "boxes"]
    main([*command, "--places", "blocks.4.2", "blocks.5.3", "blocks.6.0", "--epsilon", "0.05"])
    _, _, *rows = table(capsys.readouterr().out)
    aligned, unaligned = ({row[0]: float(row[column].split()[0]) for row in rows} for column in (5, 6))
    within = 0.0201  # 0.02, of numbers with two digits
    expected = {"blocks.4.2": 0.45, "blocks.5.3 (default)": 0.65, "blocks.6.0": 0.71}
    assert aligned == pytest.approx(expected, abs=within)
    assert unaligned == pytest.approx(dict.fromkeys(aligned, 0.46), abs=within)
