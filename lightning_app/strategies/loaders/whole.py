"""Whole batches, of which each rank keeps its part, where the parts would be padded apart.

What `collate_fn` makes of a part of a batch need not be a part of what it makes of the whole: where
it pads to the longest sample, each rank's part has another length. So ranks compare the first
batches of each pass. Where they find that, each rank asks for all samples of a batch from there on,
which is what one device trains on, and keeps its rows.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.batch.structure import rebuild, replaceable

if TYPE_CHECKING:
    from lightning_app.strategies.loaders.passes import Pass

NUM_BATCHES = 10  # of a pass, that are compared

Path: TypeAlias = tuple[Any, ...]  # the keys that lead to a value in a batch
Shape: TypeAlias = tuple[float, ...]  # of a tensor, array or list; of a number, itself
Shapes: TypeAlias = Mapping[Path, Shape]
_END = object()


class WholeBatches:
    """Finds out whether ranks have to fetch whole batches, and takes their parts of these.

    Args:
        tell: Is called once they have to.

    Attributes:
        is_on: Whether a pass that begins is to fetch whole batches.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self.is_on = False
        self._tell = tell
        self._rows: dict[Path, int | None] = {}  # of each value the dimension with the samples
        self._is_settled = False

    def parts(self, its_pass: "Pass", batches: Iterator[Any], may_begin: bool) -> Iterator[Any]:
        """A rank's parts of a pass's batches.

        Args:
            its_pass: The pass.
            batches: What it has fetched.
            may_begin: All ranks go through such a pass, so they may compare its batches.
        """
        while (batch := next(batches, _END)) is not _END:
            shard = its_pass.coming
            if its_pass.is_whole:
                batch = self._part(batch, shard)
            elif may_begin and not self._is_settled and self._is_compared(its_pass, shard):
                ranks = all_objects((shard.size, shapes_in(batch)))
                if its_pass.shards.is_padded or are_padded_apart(ranks):
                    batches = its_pass.ask_again(is_whole=True)
                    whole = next(batches)
                    its_pass.shards.is_padded = self._learn(whole, ranks)
                    if self.is_on:
                        batch = self._part(whole, shard)
                    else:
                        batches = its_pass.ask_again(is_whole=False)
            yield batch

    def _is_compared(self, its_pass: "Pass", shard: Shard) -> bool:
        is_of_all = shard.global_size >= its_pass.shards.world_size
        return is_of_all and shard.number < its_pass.start + NUM_BATCHES

    def _learn(self, whole: Any, ranks: Sequence[tuple[int, Shapes]]) -> bool:
        """Whether all ranks have fetched the same whole batch, and found the rows in it."""
        rows = rows_of(whole, ranks)
        self._is_settled = True
        first, *others = all_objects((rows is not None, digest_of(whole)))
        self.is_on = first[0] and all(other == first for other in others)
        if rows is not None and self.is_on:
            self._rows = rows
            self._tell()
        return self.is_on

    def _part(self, batch: Any, shard: Shard) -> Any:
        """A rank's part of a whole batch; all of it for one that has none, and counts nothing."""
        return self._part_of(batch, (), shard) if shard.size else batch

    def _part_of(self, value: Any, path: Path, shard: Shard) -> Any:
        dimension = self._rows.get(path)
        if dimension is not None:
            return _rows(value, dimension, shard)
        if isinstance(value, (Tensor, np.ndarray)) and path not in self._rows:
            raise _unknown("the batches before had another structure")
        inner = _inner(value)
        if inner is None:
            return value
        return rebuild(value, [self._part_of(each, (*path, key), shard) for key, each in inner])


def _inner(value: Any) -> list[tuple[Any, Any]] | None:
    """What is in a collection, with keys; `None` for what is not one, or cannot be made anew."""
    values = replaceable(value)
    if values is None:
        return None
    keys = value if isinstance(value, Mapping) else range(len(values))
    return list(zip(keys, values, strict=True))


def _shape(value: Any) -> Shape | None:
    """What is compared of a value; `None` of what is none of these."""
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested:
        return tuple(value.shape) if value.ndim else (value.item(),)
    if isinstance(value, np.ndarray) and value.ndim:
        return tuple(value.shape)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value,)
    return (len(value),) if isinstance(value, (list, tuple)) else None


def shapes_in(batch: Any) -> dict[Path, Shape]:
    """The shapes in a batch; none where something in it is of a kind that is not known."""
    found: dict[Path, Shape] = {}
    for path, value in _values_in(batch):
        if (shape := _shape(value)) is not None:
            found[path] = shape
        elif _inner(value) is None and not isinstance(value, (str, bytes, bool, type(None))):
            return {}
    return found


def digest_of(batch: Any) -> str:
    """Of what is in the tensors and arrays of a batch: ranks may draw random numbers for them."""
    digest = hashlib.sha256()
    for _, value in _values_in(batch):
        if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested:
            value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        if isinstance(value, np.ndarray):
            digest.update(value.tobytes())
    return digest.hexdigest()


def _values_in(batch: Any) -> Iterator[tuple[Path, Any]]:
    values: list[tuple[Path, Any]] = [((), batch)]
    for path, value in values:
        yield path, value
        values += [((*path, key), each) for key, each in _inner(value) or ()]


def are_padded_apart(ranks: Sequence[tuple[int, Shapes]]) -> bool:
    """Whether a value with a row for each sample has another length on each rank."""
    sizes = [size for size, _ in ranks]
    for path in ranks[0][1]:
        shapes = [shapes.get(path, ()) for _, shapes in ranks]
        if len({len(shape) for shape in shapes}) == 1:
            dimensions = [list(lengths) for lengths in zip(*shapes, strict=True)]
            if sizes in dimensions and any(len({*d}) > 1 for d in dimensions if d != sizes):
                return True
    return False


def rows_of(batch: Any, ranks: Sequence[tuple[int, Shapes]]) -> dict[Path, int | None] | None:
    """For each value of a whole batch the dimension with a row for each sample.

    In its other dimensions, and as a number, it has to be as the greatest of the ranks' parts,
    which all are padded to; `None` if one is not.
    """
    sizes = [size for size, _ in ranks]
    found: dict[Path, int | None] = {}
    values: list[tuple[Path, Any]] = [((), batch)]
    whole = shapes_in(batch)
    for path, value in values if whole else ():
        inner, shape = _inner(value), whole.get(path)
        if shape is not None:
            parts = [shapes.get(path, ()) for _, shapes in ranks]
            if {len(part) for part in parts} != {len(shape)}:
                return None
            has_rows = np.ndim(value) > 0 if inner is None else True
            by_dimension = enumerate(zip(shape, zip(*parts, strict=True), strict=True))
            rows: list[int] = []
            for d, (length, own) in by_dimension:
                if has_rows and [*own] == sizes and length == sum(sizes):
                    rows.append(d)
                elif length != max(own) or (inner is not None and length != min(own)):
                    return None
            if len(rows) > 1:
                return None
            if rows or inner is None:
                found[path] = rows[0] if rows else None
                continue
        values += [((*path, key), each) for key, each in inner or ()]
    return found or None


def _rows(value: Any, dimension: int, shard: Shard) -> Any:
    """A rank's rows of what has one for each sample."""
    shape = (len(value),) if isinstance(value, (list, tuple)) else getattr(value, "shape", ())
    if len(shape) <= dimension:
        raise _unknown("the batches before had another structure")
    if shape[dimension] != shard.global_size:
        raise _unknown(f"one has {shape[dimension]} of the {shard.global_size} samples asked for")
    if isinstance(value, Tensor):
        return value.narrow(dimension, shard.start, shard.size).contiguous()
    own = slice(shard.start, shard.stop)
    return value[(slice(None),) * dimension + (own,)] if dimension else value[own]


def _unknown(why: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"each process has to fetch whole batches, as samples are padded, but {why}, so it is not "
        "known which part of it is a process's: leave samples out in the data set, not in "
        "collate_fn, or use `--strategy dp` or one device"
    )
