"""How many samples a batch has, of which the loader has asked for so many."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lightning_app.strategies.batch.structure import children

MANY = 5  # a collection of fewer tensors is a batch's parts, as inputs and targets are


def num_rows(batch: Any, num_asked: int) -> int:
    """The number of samples in a batch.

    Args:
        batch: What `collate_fn` made of the samples, and hooks of that.
        num_asked: The samples that were asked of the data set; 0 if this is not known.

    Returns:
        The length that all tensors `(B, …)` of a plain batch share, for some may have been left
        out or doubled; what was asked for where they share none: batches of lists, of graphs, or
        with time first `(T, B, …)`.
    """
    first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    if isinstance(first, Tensor) and first.ndim and first.size(0) == num_asked:
        return num_asked  # the usual case, at once
    if is_list_of_samples(batch, num_asked, least=MANY):
        return num_asked
    tensors = [tensor for tensor in _tensors(batch) if tensor.ndim]
    lengths = {tensor.size(0) for tensor in tensors}  # a nested one has no `len`
    is_time_first = all(not t.is_nested and t.ndim > 1 and t.shape[1] == num_asked for t in tensors)
    return num_asked if len(lengths) != 1 or is_time_first else lengths.pop()


def _tensors(batch: Any) -> Iterator[Tensor]:
    """The tensors in plain collections; none if there is an object of another kind."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):  # a dataclass may be a graph
        for value in children(batch) or ():
            yield from _tensors(value)


def is_list_of_samples(batch: Any, length: int, least: int = 1) -> bool:
    """Whether there is a list of so many tensors or collections of them: one for each sample."""
    if isinstance(batch, Mapping):
        return any(is_list_of_samples(value, length) for value in batch.values())
    if not isinstance(batch, (list, tuple)):
        return False
    kinds = (Tensor, Mapping, list, tuple)
    if len(batch) == length >= least and all(isinstance(value, kinds) for value in batch):
        return True
    return any(is_list_of_samples(value, length) for value in batch)
