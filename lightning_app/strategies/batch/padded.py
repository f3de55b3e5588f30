"""What of a padded batch is a part's: which values have a row for each sample, and which rows.

Parts of a batch that are padded to their own longest samples are compared with the whole.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.batch.structure import rebuild, replaceable

MAX_NUMBERS = 16  # in a list, that are looked at one by one
PLACES = "places"  # added to the path of a value that may be places of samples in the batch

Path: TypeAlias = tuple[Any, ...]  # the keys that lead to a value in a batch
Shape: TypeAlias = tuple[float, ...]  # of a tensor, array or list; of a number, itself
Shapes: TypeAlias = Mapping[Path, Shape]
Rows: TypeAlias = Mapping[Path, int | None]  # the dimension with the samples, if there is one


class NoPart(Exception):
    """It cannot be told what of a whole batch is a rank's part."""


def shapes_in(batch: Any) -> dict[Path, Shape]:
    """The shapes in a batch."""
    found: dict[Path, Shape] = {}
    for path, value in _values_in(batch):
        if (shape := _shape(value)) is not None:
            found[path] = shape
        if _are_places(value):
            places = (*path, PLACES)
            found[places] = (len(value),)
    return found


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


def lists_of_samples(batch: Any, ranks: Sequence[tuple[int, Shapes]]) -> set[Path]:
    """Which lists of a whole batch have an entry for each sample, not all of one shape.

    Args:
        batch: The whole.
        ranks: Of each its samples, and the shapes in its part of the batch.
    """
    whole, size = shapes_in(batch), sum(size for size, _ in ranks)
    return {
        path
        for path, shape in whole.items()
        if shape == (size,)
        and all(shapes.get(path) == (own,) for own, shapes in ranks)
        and len(_entries(whole, path, size)) > 1
    }


def are_padded_apart(ranks: Sequence[tuple[int, Shapes]], lists: Set[Path] = frozenset()) -> bool:
    """Whether what has a row for each sample is of another length on each rank.

    Args:
        ranks: Of each its samples, and the shapes in its part of a batch.
        lists: Of these no entry is looked at.
    """
    sizes = [size for size, _ in ranks]
    for path in ranks[0][1]:
        if any(path[:place] in lists for place in range(len(path) + 1)):
            continue
        lengths = _by_dimension([shapes.get(path, ()) for _, shapes in ranks])
        if sizes in lengths and any(len({*each}) > 1 for each in lengths if each != sizes):
            return True
        if lengths == [sizes]:  # a list, perhaps, of lists that are padded to one length
            of_ranks = [_entries(shapes, path, size) for size, shapes in ranks]
            if all(len(each) == 1 for each in of_ranks) and len(set.union(*of_ranks)) > 1:
                return True
        entries = _by_dimension([shapes.get((*path, 0), ()) for _, shapes in ranks])
        if sizes in entries and len(lengths) == 1 and len({*lengths[0]}) > 1:
            return True  # a list, of steps of time
    return False


def rows_of(batch: Any, ranks: Sequence[tuple[int, Shapes]]) -> Rows | None:
    """For each value of a whole batch the dimension with a row for each sample.

    In its other dimensions, and as a number, it has to be as the greatest of the ranks' parts,
    which all are padded to; `None` if one is not, or is of a kind that is not known.
    """
    sizes, whole = [size for size, _ in ranks], shapes_in(batch)
    found: dict[Path, int | None] = {}
    values: list[tuple[Path, Any]] = [((), batch)]
    for path, value in values:  # which grow in the meantime
        inner, is_list = _inner(value), isinstance(value, (list, tuple))
        if (shape := whole.get(path)) is not None:
            lengths = _by_dimension([shapes.get(path, ()) for _, shapes in ranks])
            rows = _dimensions(shape, lengths, sizes, is_alike=is_list)
            are_places = all((*path, PLACES) in each for each in (whole, *(s for _, s in ranks)))
            if rows is None or (rows and are_places) or (is_list and not (rows or inner)):
                return None
            if rows or not is_list:
                found[path] = rows[0] if rows else None
                continue
        elif inner is None and not isinstance(value, (str, bytes, bool, type(None))):
            return None
        values += [((*path, key), each) for key, each in inner or ()]
    return found or None


def _dimensions(
    whole: Shape, parts: list[list[float]], sizes: list[int], is_alike: bool
) -> list[int] | None:
    """The dimension with the samples, if there is one; `None` if that is not sure.

    Args:
        whole: The shape of a value of the whole batch.
        parts: By dimension, the lengths of the ranks' parts.
        sizes: The ranks' samples.
        is_alike: It has to be as long in each part, if it has no samples.
    """
    if len(parts) != len(whole):
        return None
    rows: list[int] = []
    for dimension, (length, own) in enumerate(zip(whole, parts, strict=True)):
        if own == sizes and length == sum(sizes):
            rows.append(dimension)
        elif length != max(own) or (is_alike and length != min(own)):
            return None
        elif not min(own):
            return None  # the sum of what all have, perhaps
    return rows if len(rows) < 2 else None


def part_of(batch: Any, rows: Rows, shard: Shard) -> Any:
    """A rank's part of a whole batch.

    Args:
        batch: The whole.
        rows: What `rows_of` has found in an earlier one.
        shard: Which part.

    Raises:
        NoPart: The batch is not like the earlier one.
    """

    def part(value: Any, path: Path) -> Any:
        dimension = rows.get(path)
        if dimension is not None:
            return _own_rows(value, dimension, shard)
        if isinstance(value, (Tensor, np.ndarray)) and path not in rows:
            raise NoPart
        inner = _inner(value)
        if inner is None:
            return value
        return rebuild(value, [part(each, (*path, key)) for key, each in inner])

    return part(batch, ())


def _own_rows(value: Any, dimension: int, shard: Shard) -> Any:
    """A rank's rows of what has one for each sample; of their number, its own."""
    shape = _shape(value) or ()
    if len(shape) <= dimension or shape[dimension] != shard.global_size:
        raise NoPart
    if not isinstance(value, (list, tuple)) and not getattr(value, "ndim", 0):
        return value - (shard.global_size - shard.size)
    if isinstance(value, Tensor):
        own = value.narrow(dimension, shard.start, shard.size)
        return own.contiguous() if dimension else own
    places = slice(shard.start, shard.stop)
    return value[(slice(None),) * dimension + (places,)] if dimension else value[places]


def _entries(shapes: Shapes, path: Path, size: int) -> set[Shape | None]:
    """The shapes of a list's entries."""
    return {shapes.get((*path, place)) for place in range(size)}


def _values_in(batch: Any) -> Iterator[tuple[Path, Any]]:
    """All that is in a batch, also the tensors that an object of an unknown kind has."""
    values: list[tuple[Path, Any]] = [((), batch)]
    for path, value in values:  # which grow in the meantime
        yield path, value
        inner = _inner(value)
        if inner is None and not isinstance(value, (Tensor, np.ndarray)):
            own = getattr(value, "__dict__", {})
            inner = [(name, each) for name, each in own.items() if isinstance(each, Tensor)]
        values += [((*path, key), each) for key, each in inner or ()]


def _inner(value: Any) -> list[tuple[Any, Any]] | None:
    """What is in a collection, with keys; `None` for what is not one, or cannot be made anew."""
    values = replaceable(value)
    if values is None or (len(values) > MAX_NUMBERS and all(map(_is_number, values))):
        return None
    keys = value if isinstance(value, Mapping) else range(len(values))
    return list(zip(keys, values, strict=True))


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


def _by_dimension(shapes: Sequence[Shape]) -> list[list[float]]:
    """Of each dimension the ranks' lengths; none, if not all have as many dimensions."""
    is_alike = len({len(shape) for shape in shapes}) == 1
    return [list(lengths) for lengths in zip(*shapes, strict=True)] if is_alike else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _are_places(value: Any) -> bool:
    """Whether these are the whole numbers from 0 on, in any order."""
    shape = _shape(value)
    if shape is None or len(shape) != 1 or not shape[0] or _is_number(value):
        return False
    numbers = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else list(value)
    is_whole = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    return is_whole and sorted(numbers) == [*range(len(numbers))]
