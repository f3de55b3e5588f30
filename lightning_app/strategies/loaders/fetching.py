"""Makes a batch of the indices that a sampler gives, in the training process itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

_NOT_INDEXED = (torch.uint16, torch.uint32, torch.uint64)  # by some versions of torch


def fetcher(loader: DataLoader[Any]) -> Callable[[Any], Any]:
    """What makes a batch, as torch's `_MapDatasetFetcher` does.

    The rows of tensors are selected at once, which gives the same batch as to take and to stack
    them one by one.
    """
    dataset, collate = loader.dataset, loader.collate_fn
    if loader.batch_sampler is None:
        return lambda index: collate(dataset[index])
    one_by_one = _one_by_one(dataset, collate)
    if collate is default_collate and _has_plain_rows(dataset):
        return lambda indices: _rows(dataset, indices) or one_by_one(indices)
    return one_by_one


def _one_by_one(dataset: Any, collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if get_items := getattr(dataset, "__getitems__", None):
        return lambda indices: collate(get_items(indices))
    return lambda indices: collate([dataset[index] for index in indices])


def _has_plain_rows(dataset: Any) -> bool:
    if type(dataset) is Subset:
        return type(dataset.indices) in (list, range) and _has_plain_rows(dataset.dataset)
    # A row's strides would be kept where they are unusual.
    return type(dataset) is TensorDataset and all(
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and tensor.dtype not in _NOT_INDEXED
        for tensor in dataset.tensors
    )


def _rows(dataset: Any, indices: Any) -> list[Tensor]:
    """The rows of a data set's tensors; an empty list where an index is not a plain number."""
    while type(dataset) is Subset:
        if not _are_plain(indices):
            return []
        dataset, indices = dataset.dataset, [dataset.indices[index] for index in indices]
    return list(dataset[torch.tensor(indices, device="cpu")]) if _are_plain(indices) else []


def _are_plain(indices: Any) -> bool:
    return type(indices) is list and bool(indices) and all(type(i) is int for i in indices)
