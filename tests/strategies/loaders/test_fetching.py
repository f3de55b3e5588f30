"""A batch is the one that torch's own DataLoader makes, whether or not rows are taken at once."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from lightning_app.strategies.loaders.fetching import fetcher

X, Y = torch.randn(20, 2, 3, 4), torch.arange(20)


class Doubled(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        return tuple(2 * tensor[index] for tensor in self.tensors)


def strange_strides() -> Tensor:
    return X.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("dataset", "num_asked"),
    [
        (TensorDataset(X, Y), 2),
        (TensorDataset(X), 2),
        (Subset(Subset(TensorDataset(X, Y), range(1, 20)), list(range(17, 0, -1))), 2),
        (Doubled(X, Y), 0),
        (Subset(Doubled(X, Y), list(range(17))), 0),
        (TensorDataset(strange_strides(), Y), 7),
    ],
)
def test_a_batch_is_that_of_torch(
    dataset: Dataset[Any], num_asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=5, sampler=[3, 1, 1, 16, 0, 7, -1])
    expected = list(loader)
    asked: list[Any] = []
    usual: Any = TensorDataset.__getitem__

    def get(self: Any, index: Any) -> Any:
        asked.append(index)
        return usual(self, index)

    monkeypatch.setattr(TensorDataset, "__getitem__", get)
    fetch = fetcher(loader)
    batches = [fetch(indices) for indices in loader.batch_sampler or ()]
    assert len(asked) == num_asked
    assert len(batches) == len(expected) == 2
    for batch, its in zip(batches, expected, strict=True):
        assert type(batch) is type(its) is list
        for got, want in zip(batch, its, strict=True):
            assert torch.equal(got, want)
            assert (got.dtype, got.stride()) == (want.dtype, want.stride())


@pytest.mark.parametrize("index", [torch.tensor([2, 5]), [True, False], [torch.tensor(3)], []])
def test_what_is_not_a_list_of_numbers_goes_torchs_way(index: Any) -> None:
    dataset = TensorDataset(X, Y)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=2)
    try:
        want = default_collate([dataset[i] for i in index])
    except Exception as error:
        with pytest.raises(type(error)):
            fetcher(loader)(index)
        return
    got = fetcher(loader)(index)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
