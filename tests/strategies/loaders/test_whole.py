"""Whole batches, where ranks would pad their parts of them to other lengths."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_app.strategies.loaders import whole
from lightning_app.strategies.loaders.loader import may_pad, shard_loader
from lightning_app.strategies.loaders.whole import NUM_BATCHES, WholeBatches
from tests.strategies.batch.test_padded import padded, samples_of


class OtherRank:
    """Stands for the second of two ranks, which sees what its `collate_fn` makes of its parts."""

    def __init__(self, sizes: int, longest: int) -> None:
        self.shapes = sizes, {(): (sizes, longest, 2)}
        self.num_asked = 0
        self.whole: Any = None  # what it says of a whole batch, if not the same

    def __call__(self, value: Any) -> list[Any]:
        self.num_asked += 1
        return [value, self.shapes if isinstance(value[1], dict) else self.whole or value]


def rank_0s(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], longest_of_other: int, **more: Any
) -> tuple[Any, OtherRank, list[str]]:
    """The first of two ranks' view of batches of 4, what it asks, and what it tells."""
    other, told = OtherRank(2, longest_of_other), list[str]()
    monkeypatch.setattr(whole, "all_objects", other)
    loader: Any = DataLoader(samples_of(lengths), 4, collate_fn=padded, **more)  # type: ignore[arg-type]
    view: Any = shard_loader(loader, 0, 2)
    view.sharding.whole = WholeBatches(lambda line, subject: told.append(line))
    return view, other, told


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}])
def test_ranks_fetch_whole_batches_from_where_parts_differ(
    monkeypatch: pytest.MonkeyPatch, workers: dict[str, int]
) -> None:
    lengths = [3, 3, 3, 3, 1, 1, 3, 1, 2, 1, 5, 1, 1, 2, 1, 1]
    view, other, told = rank_0s(monkeypatch, lengths, 3, **workers)
    first = [tuple(batch.shape) for batch in view]
    assert first == [(2, 3, 2), (2, 3, 2), (2, 5, 2), (2, 2, 2)]
    assert (told, other.num_asked) == ([whole.WHOLE], 3)  # twice for shapes, once whether all agree
    assert [batch.shape[1] for batch in view] == [3, 3, 5, 2]
    assert [batch[:, 0, 0].tolist() for batch in view] == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert other.num_asked == 3


def test_no_number_is_drawn_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    more = {"shuffle": True, "generator": generator}
    view, _, told = rank_0s(monkeypatch, [1, 1, 1, 1, 1, 1, 1, 1], 1, **more)
    list(view)
    expected = generator.get_state()
    generator.manual_seed(1)
    view, _, told = rank_0s(monkeypatch, [3, 1, 3, 1, 3, 1, 3, 3], 2, **more)
    list(view)
    assert told
    assert generator.get_state().equal(expected)


def test_only_the_first_batches_of_a_pass_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    view, other, told = rank_0s(monkeypatch, [2] * 4 * (NUM_BATCHES + 3), 2)
    list(view)
    assert (told, other.num_asked) == ([], NUM_BATCHES)
    list(view)
    assert other.num_asked == 2 * NUM_BATCHES


def test_batches_without_a_part_for_each_rank_are_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view, other, _ = rank_0s(monkeypatch, [2, 2, 2, 2, 9], 2)
    assert [tuple(batch.shape) for batch in view] == [(2, 2, 2), (1, 9, 2)]
    assert other.num_asked == 1


def test_a_run_that_is_continued_goes_on_with_whole_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = [1, 1, 2, 1, 1, 1, 2, 1]
    view, _, _ = rank_0s(monkeypatch, lengths, 2)
    assert next(iter(view)).shape[1] == 2
    state = view.state_dict()
    assert state["is_padded"]
    # All parts of the next batch are as long: nothing would be seen.
    view, _, told = rank_0s(monkeypatch, [1, 1, 2, 1, 2, 1, 2, 1], 2)
    view.load_state_dict(state | {"position": 1})
    list(view)
    assert told
    alone: Any = shard_loader(DataLoader(samples_of(lengths), 4, collate_fn=padded))  # type: ignore[arg-type]
    alone.load_state_dict(state)
    assert alone.state_dict()["is_padded"]
    view.load_state_dict({k: v for k, v in state.items() if k != "is_padded"})  # of an old version


def test_a_list_of_samples_is_not_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of other heights look so, where one has as many channels as a part has samples."""
    asked, drawn = list[int](), list[float]()

    class Pictures(TensorDataset):
        def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
            asked.append(index)
            drawn.append(random.random())
            return torch.zeros(2, 5 + index, 7)

    class OfPictures(OtherRank):
        def __call__(self, value: Any) -> list[Any]:
            self.num_asked += 1
            of_lists = 2, {(): (2,), (0,): (2, 9, 7), (1,): (2, 9, 7)}
            return [value, of_lists if isinstance(value[1], dict) else value]

    other, told = OfPictures(2, 0), list[str]()
    monkeypatch.setattr(whole, "all_objects", other)
    loader: Any = DataLoader(Pictures(torch.zeros(12)), 4, collate_fn=list)
    view: Any = shard_loader(loader, 0, 2)
    view.sharding.whole = WholeBatches(lambda line, subject: told.append(line))
    random.seed(7)  # not by what whole batches are drawn by
    for _ in range(2):
        assert [len(batch) for batch in view] == [2, 2, 2]
    assert not told
    assert asked == [0, 1, 0, 1, 2, 3, 4, 5, 8, 9, 0, 1, 4, 5, 8, 9]  # the first batch once whole
    assert len({*drawn}) == len(drawn)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: {"x": x},
        lambda x: x[:, 0, 0].sum(),
        lambda x: "x",
        lambda x: [x, x],
        lambda x: x[:2],  # it leaves a sample out
    ],
)
def test_parts_are_fetched_from_where_batches_are_others(
    other: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def collate(samples: list[Tensor]) -> Any:
        batch = padded(samples)
        return other(batch) if len(samples) == 3 else batch

    view, _, told = rank_0s(monkeypatch, [3, 1, 1, 1, 1, 1, 1], 1)
    view.sharding.loader.collate_fn = vars(view)["collate_fn"] = collate
    first, second = view
    assert first.shape == (2, 3, 2)
    assert second.shape == (2, 1, 2)
    assert told == [whole.WHOLE, whole.APART]
    assert [batch.shape for batch in view] == [(2, 3, 2), (2, 1, 2)]


def test_a_part_that_is_all_of_a_batch_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def collate(samples: list[Tensor]) -> Tensor:
        return padded(samples).squeeze()

    view, _, told = rank_0s(monkeypatch, [3, 1, 1, 1, 1], 1)
    view.sharding.loader.collate_fn = vars(view)["collate_fn"] = collate
    assert [batch.shape for batch in view] == [(2, 3, 2), (2,)]
    assert told == [whole.WHOLE]


@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.filterwarnings("ignore:'pin_memory'")
def test_whole_batches_are_fetched_by_the_same_numbers(
    pin_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collate(samples: list[Tensor]) -> Tensor:
        return padded(samples) + torch.rand(1)

    batches = []
    for _ in range(2):
        # A pass has its seed from the generator.
        more: Any = {"generator": torch.Generator(), "pin_memory": pin_memory}
        view, _, told = rank_0s(monkeypatch, [3, 1, 1, 1, 1, 1, 1, 1], 1, **more)
        view.sharding.loader.collate_fn = vars(view)["collate_fn"] = collate
        before = torch.get_rng_state()
        batches.append(torch.cat([batch.flatten() for batch in view]))
        assert torch.get_rng_state().equal(before)
        assert told == [whole.WHOLE, whole.DRAWN]
        torch.rand(1)
    assert batches[0].equal(batches[1])


def test_what_is_cut_is_as_if_it_were_made_so(monkeypatch: pytest.MonkeyPatch) -> None:
    view, _, _ = rank_0s(monkeypatch, [3, 1, 1, 1], 1)
    (batch,) = view
    assert batch.is_contiguous()
    assert np.array_equal(batch[:, 0, 0], [0, 1])


def test_what_ranks_draw_differently_is_not_fetched_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    view, other, told = rank_0s(monkeypatch, [3, 1, 1, 1], 1)
    other.whole = True, "a digest"
    assert [tuple(batch.shape) for batch in view] == [(2, 3, 2)]
    assert told == [whole.APART]


class BySeveral(TensorDataset):
    def __getitems__(self, indices: list[int]) -> Any:
        return self[indices]


@pytest.mark.parametrize(
    ("dataset", "collate", "expected"),
    [
        (TensorDataset(torch.zeros(4)), None, False),
        (Subset(TensorDataset(torch.zeros(4)), [1, 2]), None, False),
        (Subset(BySeveral(torch.zeros(4)), [1, 2]), None, True),
        (TensorDataset(torch.zeros(4)), padded, True),
    ],
)
def test_what_cannot_pad_is_not_compared(dataset: Any, collate: Any, expected: bool) -> None:
    assert may_pad(shard_loader(DataLoader(dataset, 2, collate_fn=collate), 0, 2)) is expected
    assert may_pad(shard_loader(DataLoader(dataset, None), 0, 2))
    assert not may_pad([1, 2])
