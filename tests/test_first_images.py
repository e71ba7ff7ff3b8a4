"""The few images of each class that small trainings take, against a walk through the rows."""

from collections import Counter

import datasets
import numpy as np
import pytest
from PIL import Image

from alignmix_timm.paper import on_device
from alignmix_timm.paper.images import first_rows, of_classes

Numbered = tuple[str, dict[str, list[int]]]


@pytest.mark.parametrize("count", [None, 0, 1, 4, 100])
def test_the_first_rows_of_each_class_are_those_that_one_finds_going_through_them(count: int | None) -> None:
    rng = np.random.default_rng(0)
    for classes in ([0, 1, 2, 3, 4], [1, 4], [3]):
        labels = rng.integers(0, 5, 60).tolist()
        assert first_rows(labels, classes, count).tolist() == first_by_hand(labels, classes, count)


def first_by_hand(labels: list[int], classes: list[int], count: int | None) -> list[int]:
    seen, found = Counter[int](), []
    for row, label in enumerate(labels):
        seen[label] += 1
        if label in classes and (count is None or seen[label] <= count):
            found.append(row)
    return found


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Numbered:
    """A dataset of five classes in random order, whose images show the number of their row; and its labels."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "numbered"
    labels = {"train": [0, 1, 2, 3, 4] * 4, "test": [0, 1, 2, 3, 4, 1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list("abcde")))
    for split in labels.values():
        rng.shuffle(split)
    columns = {
        split: {"image": [Image.new("RGB", (4, 4), (row,) * 3) for row in range(len(of_split))], "label": of_split}
        for split, of_split in labels.items()
    }
    datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(both, features=features) for split, both in columns.items()}
    ).save_to_disk(folder)
    return str(folder), labels


@pytest.mark.parametrize(("classes", "kept"), [(None, [0, 1, 2, 3, 4]), (5, [0, 1, 2, 3, 4]), (2, [0, 2]), (1, [0])])
@pytest.mark.parametrize(("per_class", "of_test"), [(4, None), (1, 1), (3, 9)])
def test_images_of_classes_are_the_first_of_each_numbered_anew(
    numbered: Numbered,
    classes: int | None,
    kept: list[int],
    per_class: int,
    of_test: int | None,
) -> None:
    path, labels = numbered
    training, test, count = of_classes(path, 4, per_class, of_test, classes)
    assert count == len(kept)
    for found, split, each in ((training, "train", per_class), (test, "test", of_test)):
        rows = first_by_hand(labels[split], kept, each)
        assert found.pixels[:, 0, 0, 0].tolist() == rows
        assert found.labels.tolist() == [kept.index(labels[split][row]) for row in rows]
    on = on_device.images(path, 4, per_class, of_test, classes)
    assert [on[0].labels.tolist(), on[1].labels.tolist()] == [training.labels.tolist(), test.labels.tolist()]


def test_more_classes_or_images_than_there_are_are_refused(numbered: Numbered) -> None:
    path, _ = numbered
    with pytest.raises(ValueError, match=r"data must have at least 6 classes, .* has 5\."):
        of_classes(path, 4, 1, classes=6)
    with pytest.raises(ValueError, match=r"at least 5 training images of each class, .* has 4 of 'a'\."):
        of_classes(path, 4, 5)
