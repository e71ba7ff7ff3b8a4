"""How the batches of a collator are drawn, listed by process and epoch."""

import copy
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_collate import Rows, same
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alignmix_timm import AlignMixCollator, AlignMixModel, draw
from alignmix_timm.mixers import AlignMixup, CutMix, InputMixup, MixDraw, OneOf, StyleCutMix, StyleMix
from alignmix_timm.params import Place

SEED, BATCH = 1, 4
DRAWN = {float(draw(BATCH, SEED, step, rank).lam[0]): (step, rank) for rank in (0, 1) for step in range(60)}


def loader(collator: Any, rows: int = 20, workers: int = 0, **options: Any) -> DataLoader:
    return DataLoader(Rows(rows), batch_size=BATCH, collate_fn=collator, num_workers=workers, **options)


def mix_of(collator: AlignMixCollator) -> MixDraw:
    return collator([Rows(9)[index] for index in range(BATCH)])["mix"]


def steps(batches: Iterable[dict[str, Any]], most: int | None = None, rank: int = 0) -> list[int]:
    """The steps at which batches were drawn; with ``most``, the epoch is left after as many."""
    found: list[int] = []
    for batch in batches:
        step, micro = DRAWN[float(batch["mix"].lam[0])]
        assert same(batch["mix"], draw(BATCH, SEED, step, rank)), f"drawn as in process {micro}"
        found.append(step)
        if len(found) == most:
            break
    return found


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (2, False), (2, True)])
def test_every_batch_that_is_read_is_drawn_anew(workers: int, persistent: bool) -> None:
    """Whatever the workers had prepared when an epoch was left, and however often the collator was copied."""
    collator = pickle.loads(pickle.dumps(copy.deepcopy(AlignMixCollator(SEED))))
    one = loader(collator, workers=workers, persistent_workers=persistent)
    assert [steps(one), steps(one, 3), steps(one)] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12]]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_started_with_a_pickled_collator(method: str) -> None:
    one = loader(AlignMixCollator(SEED), 8, 1, multiprocessing_context=method)
    assert [steps(one) for _ in range(2)] == [[0, 1], [2, 3]]


def test_evaluation_between_changes_no_draw() -> None:
    collator = AlignMixCollator(SEED)
    model = AlignMixModel(timm.create_model("test_resnet", num_classes=5), input_size=(3, 32, 32)).eval()
    batches = iter(loader(collator))
    found = steps(batches, 2)
    for batch in loader(collator):
        model(**batch)
    assert found + steps(batches) == [0, 1, 2, 3, 4]


def test_two_loaders_of_one_collator_never_repeat_a_draw() -> None:
    collator = AlignMixCollator(SEED)
    pairs = zip(loader(collator, workers=1), loader(collator), strict=True)
    assert [step for pair in pairs for step in steps(pair)] == list(range(10))


def test_a_deep_copy_counts_for_itself_and_a_pickled_one_with_the_original() -> None:
    collator = AlignMixCollator(SEED, mixer=OneOf((AlignMixup(),)))
    pickled, copied = pickle.loads(pickle.dumps(collator)), copy.deepcopy([collator, collator])
    assert copied[0] is copied[1]
    assert copied[0].mixer == collator.mixer
    for step, one in enumerate((collator, pickled, copy.copy(collator), collator)):
        assert same(mix_of(one), draw(BATCH, SEED, step))
    assert same(mix_of(copied[0]), draw(BATCH, SEED, 0))


def test_a_batch_is_drawn_once_when_it_is_read() -> None:
    collator = AlignMixCollator(SEED)
    first, second = mix_of(collator), mix_of(collator)
    assert len(first) == len(second) == BATCH
    assert (first.unlabelled, first.to("meta", non_blocking=True)) == ("", first)
    for mix, step in ((second, 0), (first, 1), (second, 0)):
        assert same(mix, draw(BATCH, SEED, step))
        assert same(pickle.loads(pickle.dumps(mix)), draw(BATCH, SEED, step))
    assert first.params is first.params
    with pytest.raises(AttributeError):
        first.lam = torch.ones(BATCH)


def test_two_forward_passes_of_one_batch_are_mixed_alike() -> None:
    """As in SAM."""
    torch.manual_seed(0)
    model = AlignMixModel(timm.create_model("test_resnet", num_classes=5), input_size=(3, 64, 64)).train()
    collator = AlignMixCollator(SEED)
    for _ in range(4):
        batch = collator([(torch.randn(3, 64, 64), label) for label in range(BATCH)])
        one, other = model(**batch), model(**batch)
        assert torch.equal(one.logits, other.logits)
        assert torch.equal(one.targets, other.targets)


def test_mixers_in_turns_are_drawn_as_by_hand() -> None:
    mixer = OneOf((CutMix(), InputMixup(), AlignMixup()))
    for step, batch in enumerate(loader(AlignMixCollator(SEED, mixer=mixer))):
        found, expected = batch["mix"], mixer.draw(BATCH, Place(SEED, step))
        assert same(found, expected)
        assert found.extra.keys() == expected.extra.keys()
        for name in ("mixer", "label", "layer", "aligned", "mixes_features"):
            assert getattr(found, name) == getattr(expected, name)


class Heavy(nn.Module):
    """A codec of 4 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2**20))

    def encode(self, images: Tensor) -> Tensor:
        return images * self.weights[0]

    decode = encode


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_and_data_workers_carry_no_codec(workers: int) -> None:
    """The model mixes with the one that it has: a network for every batch would be slow, and on a GPU an error."""
    mixer = OneOf((StyleMix(codec=Heavy(), size=None, prob=1.0), StyleCutMix(codec=Heavy(), size=None, prob=1.0)))
    collator = AlignMixCollator(SEED, mixer=OneOf((mixer,)))
    rows, options = Rows(16), {"multiprocessing_context": "spawn"} if workers else {}
    assert len(pickle.dumps(collator)) < 5000 < 2**22 < len(pickle.dumps(mixer))
    model = AlignMixModel(timm.create_model("test_resnet", num_classes=5), mixer=mixer, input_size=(3, 32, 32)).train()
    for step, batch in enumerate(DataLoader(rows, BATCH, collate_fn=collator, num_workers=workers, **options)):
        assert len(pickle.dumps(batch["mix"])) < 5000
        assert copy.deepcopy(batch["mix"]).batch_size == BATCH
        assert same(batch["mix"], mixer.draw(BATCH, Place(SEED, step)))
        assert model(**batch).loss.isfinite()
    assert copy.deepcopy(collator).mixer.mixers[0].mixers[0].codec.weights is not mixer.mixers[0].codec.weights
    model.mixer = pickle.loads(pickle.dumps(collator)).mixer
    with pytest.raises(RuntimeError, match=r"mixer has no codec, .* can only draw: give the model the mixer that"):
        model(**batch)


def test_what_is_read_in_a_data_worker_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"mix must be read in the process that trains, .* in a data worker"):
        list(loader(ReadAhead(), workers=1))


class ReadAhead(AlignMixCollator):
    def __call__(self, examples: Any) -> Any:
        batch = super().__call__(examples)
        return {**batch, "mode": batch["mix"].mode}


def train_in(rank: int, collator: AlignMixCollator, folder: Path) -> None:
    """Two epochs, the first left early, in one of two processes; only the first of these evaluates between."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    one = loader(collator, workers=1, persistent_workers=True)
    found = [steps(one, 2, rank)]
    if rank == 0:
        assert sum(1 for _ in loader(collator)) == 5
    torch.save([*found, steps(one, rank=rank)], folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_collator_made_before_the_processes(tmp_path: Path, method: str) -> None:
    """As by torch.multiprocessing.spawn and by notebook_launcher, which forks."""
    mp.start_processes(train_in, (AlignMixCollator(SEED), tmp_path), nprocs=2, start_method=method)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one == other == [[0, 1], [2, 3, 4, 5, 6]]
