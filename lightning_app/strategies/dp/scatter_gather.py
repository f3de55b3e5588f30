"""What a module is called with on its way to the replicas, and what they give on its way back.

`torch.nn.parallel`'s own functions go by length, and for CUDA alone. Here the arguments that have
rows (`rows.py`) are split as `torch.chunk` does, a list with an entry for each sample by its
entries, and what is surely of no sample goes to each replica: constants, scalars, the model's
parameters and buffers, and tensors that are not made of the batch and have no dimension that could
be samples. For anything else `scatter` raises `NotSplit`, and the call is to run in one piece,
which is always right.

Outputs are joined along the first dimension in which each replica's has its number of samples.

Not covered: an output with the samples in a later dimension, where an earlier one happens to be as
long as the shard on every replica (layers or time steps first; torch's own RNNs are looked at).
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.utils.rnn import PackedSequence

from lightning_app.strategies.batch.rows import MIXED, ROWS, Rows, tensors_in
from lightning_app.strategies.batch.sharding import chunk_sizes
from lightning_app.strategies.batch.structure import rebuild, replaceable

CONSTANTS = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, type)


class NotSplit(Exception):
    """A call cannot be split; the message is why, and is empty where there is nothing to split."""


class NotJoined(Exception):
    """Outputs cannot be joined; the message is why."""


def scatter(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rows: Rows,
    devices: Sequence[torch.device],
    is_owned: Callable[[Tensor], bool],
) -> list[tuple[int, tuple[Any, ...], dict[str, Any]]]:
    """Split what a module is called with over devices.

    Args:
        args: By position: tensors, constants and collections of them.
        kwargs: The same by name.
        rows: Tells which tensors have a row for each sample.
        devices: One per replica.
        is_owned: Whether a tensor is a parameter or a buffer of the model.

    Returns:
        For each replica at work its number of samples and its inputs, on its device.

    Raises:
        NotSplit: An argument may or may not belong to samples, or none does.
    """
    sizes = chunk_sizes(rows.size, len(devices))
    devices = devices[: len(sizes)]
    bounds = [(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]
    num_split = 0

    def parts(value: Any) -> list[Any]:
        nonlocal num_split
        if isinstance(value, Tensor):
            if value.is_nested:
                raise NotSplit(
                    "a nested tensor cannot be split; to have it split, make it in `forward`"
                )
            kind = rows.kind(value)
            if kind == ROWS:
                num_split += 1
                return [_to(value[i:j], d) for (i, j), d in zip(bounds, devices, strict=True)]
            if _is_of_no_sample(value, kind, rows.size) or is_owned(value):
                return [_to(value, device) for device in devices]
            raise NotSplit(_doubt(value, kind))
        if rows.is_by_sample(value):
            num_split += 1
            return [_to(value[i:j], d) for (i, j), d in zip(bounds, devices, strict=True)]
        inner = None if isinstance(value, PackedSequence) else replaceable(value)
        if inner is not None:
            if len(inner) == rows.size and not any(True for _ in tensors_in(inner)):
                raise NotSplit(
                    f"a {type(value).__name__} is as long as the batch, but may not belong to it"
                )
            by_replica = zip(*map(parts, inner), strict=True) if inner else [()] * len(sizes)
            return [rebuild(value, list(values)) for values in by_replica]
        if type(value) is int and value == rows.size:
            raise NotSplit("a number may be the number of samples")
        if isinstance(value, CONSTANTS):
            return [value] * len(sizes)
        raise NotSplit(f"a {type(value).__name__} among its arguments may belong to the samples")

    by_argument = [parts(value) for value in (*args, *kwargs.values())]
    if not num_split:
        raise NotSplit("")
    by_replica = zip(sizes, zip(*by_argument, strict=True), strict=True)
    num = len(args)
    return [(n, own[:num], dict(zip(kwargs, own[num:], strict=True))) for n, own in by_replica]


def _is_of_no_sample(tensor: Tensor, kind: int | None, num_samples: int) -> bool:
    if tensor.ndim == 0:
        return True
    return kind is None and not any(n and n % num_samples == 0 for n in tensor.shape)


def _doubt(tensor: Tensor, kind: int | None) -> str:
    made = "not made of the batch" if kind is None else "made of the batch"
    return (
        f"a tensor {tuple(tensor.shape)}, {made}, may or may not have a row for each sample; to "
        "have the call split, make that tensor in `forward`"
    )


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    inner = replaceable(value)
    if inner is None:  # another kind of collection, of one sample
        return move_data_to_device(value, device)
    return rebuild(value, [_to(each, device) for each in inner])


class Gather:
    """Puts the replicas' outputs together.

    Args:
        sizes: Samples of each replica.
        device: Where the result goes.
        rows: Is told which results have a row for each sample.
        on_mean: Called where scalars are averaged.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        device: torch.device,
        rows: Rows | None = None,
        on_mean: Callable[[], None] = lambda: None,
    ) -> None:
        self._sizes, self._device, self._rows, self._on_mean = sizes, device, rows, on_mean

    def __call__(self, outputs: Sequence[Any]) -> Any:
        """Join what each replica returned.

        Args:
            outputs: Tensors, arrays or constants, or collections of them; one a replica.

        Returns:
            One output of the same structure: tensors joined along the batch, and scalars taken as
            means over a replica's samples, so averaged by the replicas' sizes.

        Raises:
            NotJoined: The outputs cannot be joined.
        """
        first = outputs[0]
        if len(outputs) == 1 or all(output is first for output in outputs):
            return self._whole(first)
        if isinstance(first, Tensor):
            return self._tensor([output.to(self._device, non_blocking=True) for output in outputs])
        if isinstance(first, np.ndarray):
            return self._array(outputs)
        if isinstance(first, Distribution):
            return self._distribution(outputs)
        parts = [replaceable(output) for output in outputs]
        inner = [part for part in parts if part is not None]
        if len(inner) < len(outputs) or isinstance(first, PackedSequence):
            if isinstance(first, CONSTANTS) and all(output == first for output in outputs):
                return first
            raise NotJoined(f"its replicas return {type(first).__name__}s that cannot be joined")
        if self._have_entries(outputs):
            return type(first)(_to(entry, self._device) for output in outputs for entry in output)
        if len({len(values) for values in inner}) > 1:
            raise NotJoined(f"its replicas return {type(first).__name__}s of different lengths")
        return rebuild(first, [self(values) for values in zip(*inner, strict=True)])

    def _have_entries(self, outputs: Sequence[Any]) -> bool:
        """Whether lists have an entry for each sample, and are not of as many outputs."""
        kinds = {type(output) for output in outputs}
        if not kinds <= {list, tuple} or [len(output) for output in outputs] != list(self._sizes):
            return False
        if len(set(self._sizes)) > 1:
            return True
        tensors = list(tensors_in(outputs))
        size = self._sizes[0]
        return kinds == {list} and not (tensors and all(size in tensor.shape for tensor in tensors))

    def _whole(self, output: Any) -> Any:
        """The output of the only replica, or one that all share."""
        if self._rows is not None:
            for tensor in tensors_in(output):
                self._rows.mark(tensor, MIXED)
        return output

    def _tensor(self, tensors: list[Tensor]) -> Tensor:
        first = tensors[0]
        if first.is_nested:
            raise NotJoined("it returns a nested tensor")
        dim = self._batch_dim([tensor.shape for tensor in tensors])
        if dim is not None:
            joined = torch.cat(tensors, dim)
        elif all(tensor.equal(first) for tensor in tensors) and not first.requires_grad:
            joined = first
        elif first.ndim == 0:
            if not all(tensor.equal(first) for tensor in tensors):
                self._on_mean()
            shares = [n / sum(self._sizes) for n in self._sizes]
            joined = torch.stack(
                [t * share for t, share in zip(tensors, shares, strict=True)]
            ).sum()
        else:
            raise NotJoined(
                f"it returns a tensor {tuple(first.shape)} without a row for each sample"
            )
        if self._rows is not None:
            self._rows.mark(joined, ROWS if dim == 0 else MIXED)
        return joined

    def _batch_dim(self, shapes: Sequence[Sequence[int]]) -> int | None:
        """Along which dimension each replica's shape has its number of samples."""
        if len({len(shape) for shape in shapes}) > 1:
            return None
        for dim in range(len(shapes[0])):
            if tuple(shape[dim] for shape in shapes) == tuple(self._sizes):
                rest = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
                return dim if len(rest) == 1 else None
        return None

    def _array(self, arrays: Sequence[Any]) -> Any:
        dim = self._batch_dim([array.shape for array in arrays])
        if dim is None:
            raise NotJoined("it returns an array without a row for each sample")
        return np.concatenate(arrays, dim)

    def _distribution(self, distributions: Sequence[Any]) -> Any:
        """A distribution over all samples, from its attributes."""
        new = object.__new__(type(distributions[0]))
        for name, value in vars(distributions[0]).items():
            values = [vars(each)[name] for each in distributions]
            if name == "_batch_shape" and self._batch_dim(values) == 0:
                vars(new)[name] = torch.Size((sum(self._sizes), *value[1:]))
            else:
                vars(new)[name] = self(values)
        return new


def has_samples_elsewhere(module: nn.Module) -> bool:
    """Whether a module of torch's own takes its samples along another dimension than the first."""
    is_torchs = type(module).__module__.startswith("torch.nn.")
    return is_torchs and any(getattr(m, "batch_first", True) is False for m in module.modules())


def looks_like_states(module: nn.Module, sizes: Sequence[int]) -> bool:
    """Whether shards are as many as layers of an RNN, whose states (layers, B, H) are not rows."""
    return len(set(sizes)) == 1 and any(
        isinstance(m, nn.RNNBase) and m.num_layers * (1 + m.bidirectional) == sizes[0]
        for m in module.modules()
    )
