"""What of a padded batch is a part's: which values have a row for each sample, and which rows.

Parts of a batch that are padded to their own longest samples are compared with the whole.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_app.strategies.batch.loss_weight import MEAN_OVER
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.batch.structure import rebuild, replaceable

MAX_NUMBERS = 16  # in a list, that are looked at one by one

Path: TypeAlias = tuple[Any, ...]  # the keys that lead to a value in a batch
Shape: TypeAlias = tuple[float, ...]  # of a tensor, array or list; of a number, itself
Shapes: TypeAlias = Mapping[Path, Shape]
Rows: TypeAlias = Mapping[Path, int | None]  # the dimension with the samples, if there is one


def _inner(value: Any) -> list[tuple[Any, Any]] | None:
    """What is in a collection, with keys; `None` for what is not one, or cannot be made anew."""
    values = replaceable(value)
    if values is None or (len(values) > MAX_NUMBERS and all(_is_number(each) for each in values)):
        return None
    keys = value if isinstance(value, Mapping) else range(len(values))
    return list(zip(keys, values, strict=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _shape(value: Any) -> Shape | None:
    """What is compared of a value; `None` of what is none of these."""
    if isinstance(value, Tensor) and (value.layout is not torch.strided or value.is_nested):
        return None
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim:
            return tuple(value.shape)
        value = value.item()
    if isinstance(value, (list, tuple)):
        return (len(value),)
    return (value,) if _is_number(value) else None


def shapes_in(batch: Any) -> dict[Path, Shape]:
    """The shapes in a batch."""
    shapes = ((path, _shape(value)) for path, value in _values_in(batch))
    return {path: shape for path, shape in shapes if shape is not None}


def digest_of(batch: Any) -> str:
    """Of what is in the tensors and arrays of a batch: ranks may draw random numbers for them."""
    digest = hashlib.sha256()
    for _, value in _values_in(batch):
        if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested:
            plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            value = plain.reshape(-1).view(torch.uint8).numpy()
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
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


def rows_of(batch: Any, ranks: Sequence[tuple[int, Shapes]]) -> Rows | None:
    """For each value of a whole batch the dimension with a row for each sample.

    In its other dimensions, and as a number, it has to be as the greatest of the ranks' parts,
    which all are padded to; `None` if one is not, or is of a kind that is not known.
    """
    sizes = [size for size, _ in ranks]
    found: dict[Path, int | None] = {}
    values: list[tuple[Path, Any]] = [((), batch)]
    for path, value in values:
        shape, inner = _shape(value), _inner(value)
        if shape is None:
            if inner is None and not isinstance(value, (str, bytes, bool, type(None))):
                return None
        else:
            parts = [shapes.get(path, ()) for _, shapes in ranks]
            if {len(part) for part in parts} != {len(shape)}:
                return None
            is_list = isinstance(value, (list, tuple))
            has_length = is_list or getattr(value, "ndim", 0) > 0
            rows = _dimensions(shape, parts, sizes if has_length else None, is_alike=is_list)
            if rows is None or (is_list and inner is None and not rows):
                return None
            if rows or not is_list:
                found[path] = rows[0] if rows else None
                continue
        values += [((*path, key), each) for key, each in inner or ()]
    return found or None


def _dimensions(
    whole: Shape, parts: Sequence[Shape], sizes: list[int] | None, is_alike: bool
) -> list[int] | None:
    """The dimension with the samples, if there is one; `None` if that is not sure.

    Args:
        whole: The shape of a value of the whole batch.
        parts: Of those of the ranks' parts.
        sizes: The ranks' samples; `None` for a number.
        is_alike: It has to be as long in each part, if it has no samples.
    """
    rows: list[int] = []
    for dimension, (length, own) in enumerate(zip(whole, zip(*parts, strict=True), strict=True)):
        if sizes is not None and [*own] == sizes and length == sum(sizes):
            rows.append(dimension)
        elif length != max(own) or (is_alike and length != min(own)):
            return None
        elif not min(own) and (sizes is not None or length):
            return None  # the sum of what all have, perhaps
    return rows if len(rows) < 2 else None


def part_of(batch: Any, rows: Rows, shard: Shard) -> Any:
    """A rank's part of a whole batch.

    Args:
        batch: The whole.
        rows: What `rows_of` has found in an earlier one.
        shard: Which part.

    Raises:
        MisconfigurationException: The batch is not like the earlier one.
    """

    def part(value: Any, path: Path) -> Any:
        dimension = rows.get(path)
        if dimension is not None:
            return _rows(value, dimension, shard)
        if isinstance(value, (Tensor, np.ndarray)) and path not in rows:
            raise _unknown("the batches before had another structure")
        inner = _inner(value)
        if inner is None:
            return value
        return rebuild(value, [part(each, (*path, key)) for key, each in inner])

    return part(batch, ())


def _rows(value: Any, dimension: int, shard: Shard) -> Any:
    """A rank's rows of what has one for each sample."""
    shape = (len(value),) if isinstance(value, (list, tuple)) else getattr(value, "shape", ())
    if len(shape) <= dimension:
        raise _unknown("the batches before had another structure")
    if shape[dimension] != shard.global_size:
        raise _unknown(f"one has {shape[dimension]} of the {shard.global_size} samples asked for")
    if isinstance(value, Tensor):
        own_rows = value.narrow(dimension, shard.start, shard.size)
        return own_rows.contiguous() if dimension else own_rows
    own = slice(shard.start, shard.stop)
    return value[(slice(None),) * dimension + (own,)] if dimension else value[own]


def _unknown(why: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"each process fetches whole batches, as samples are padded, but {why}, so it is not known "
        "which part of it is a process's: leave samples out in the data set, not in collate_fn, or "
        f"give the model a method `{MEAN_OVER}(batch)`"
    )
