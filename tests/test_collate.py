import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from alignmix_timm import AlignMixCollator, MixParams, draw
from alignmix_timm.targets import dense_targets


class Rows(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"image": torch.full((3, 4, 4), float(index)), "label": index % 5}


def same(one: MixParams, other: MixParams) -> bool:
    return one.mode == other.mode and torch.equal(one.lam, other.lam) and torch.equal(one.perm, other.perm)


def test_batch_is_unmixed_and_carries_its_parameters() -> None:
    batch = AlignMixCollator(seed=3, num_classes=5)([Rows(9)[index] for index in range(4)])
    assert list(batch) == ["pixel_values", "labels", "mix"]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert batch["labels"].tolist() == [0, 1, 2, 3]
    assert same(batch["mix"], draw(4, 3, 0))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_every_batch_of_every_epoch_is_drawn_anew(workers: int, persistent: bool) -> None:
    if persistent and not workers:
        pytest.skip("persistent workers need workers")
    loader = DataLoader(
        Rows(24),
        batch_size=4,
        collate_fn=AlignMixCollator(seed=1),
        num_workers=workers,
        persistent_workers=persistent,
    )
    params = [batch["mix"] for _ in range(2) for batch in loader]
    assert all(same(params[step], draw(4, 1, step)) for step in range(12))


def test_processes_share_modes_and_differ_in_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    collators = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        collators.append(AlignMixCollator(seed=2, modes=("input", "embed")))
    rows = [Rows(9)[index] for index in range(8)]
    for _ in range(10):
        one, other = (collator(rows)["mix"] for collator in collators)
        assert one.mode == other.mode
        assert not torch.equal(one.lam, other.lam)


def test_accepts_tuples_other_columns_and_no_labels() -> None:
    image = torch.zeros(3, 2, 2)
    assert AlignMixCollator()([(image, 1), (image, 0)])["labels"].tolist() == [1, 0]
    collator = AlignMixCollator(image_column="x", label_column="y")
    assert collator([{"x": image, "y": torch.tensor([0.5, 0.5])}] * 2)["labels"].shape == (2, 2)
    assert "labels" not in AlignMixCollator()([{"pixel_values": image}] * 2)


def test_bad_examples_are_named() -> None:
    rows = [Rows(9)[index] for index in range(4)]
    with pytest.raises(ValueError, match=r"labels must be class indices in \[0, 3\), got 3"):
        AlignMixCollator(num_classes=3)(rows)
    assert AlignMixCollator(num_classes=1)(rows[:2])["labels"].tolist() == [0, 1]  # binary targets
    with pytest.raises(ValueError, match=r"image_column must be one of the columns \['label', 'photo'\]"):
        AlignMixCollator()([{"photo": 0, "label": 0}])
    with pytest.raises(ValueError, match=r"label_column must be one of the columns .* got 'class'"):
        AlignMixCollator(label_column="class")(rows)
    with pytest.raises(ValueError, match="images must be tensors"):
        AlignMixCollator()([{"image": "a.png", "label": 0}])
    with pytest.raises(ValueError, match="alpha must be > 0, got -1"):
        AlignMixCollator(alpha=-1)
    with pytest.raises(ValueError, match="modes must be chosen from"):
        AlignMixCollator(modes=("cutmix",))


def test_dense_targets_of_every_kind() -> None:
    assert torch.equal(dense_targets(torch.tensor([2, 0]), 3), torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    soft = torch.rand(2, 3)
    assert torch.equal(dense_targets(soft, 3), soft)
    assert torch.equal(dense_targets(torch.tensor([1, 0]), 1), torch.tensor([[1.0], [0.0]]))
    smoothed = dense_targets(torch.tensor([2]), 4, 0.2)
    assert torch.allclose(smoothed, torch.tensor([[0.05, 0.05, 0.85, 0.05]]))
    for labels in (torch.rand(4), torch.rand(4, 2), torch.zeros(4, 3, 2)):
        with pytest.raises(ValueError, match=r"labels must be class indices \[B\] or targets \[B, 3\]"):
            dense_targets(labels, 3)
