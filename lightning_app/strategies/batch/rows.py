"""Which tensors of a step have a row for each sample of its batch: what `dp` may split.

A length tells nothing, as classes, positions or time steps may be as many as samples. What a tensor
is made of does, so the tensors of a step are followed from the batch on:

- a tensor of the batch has rows if it is as long as the batch has samples;
- what is made of it has rows where each row is made of the same sample's: views whose rows lie in
  the rows they are views of, element-wise results, copies, reshapes within a row; and what else is
  as long as the batch, if nothing else that went into it has that length, in any dimension;
- a list of the batch with an entry for each sample, and what is made of one entry alone.

Everything else that is made of the batch is mixed: nobody can say what its rows are.

Not covered: what is computed outside of torch (NumPy, a custom `autograd.Function`) or by a
transform of `torch.func` counts as not made of the batch; a stream's batches, whose
only lengths are those of time steps.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary
from typing_extensions import override

from lightning_app.strategies.batch.structure import children

ROWS, MIXED = -1, -2  # kinds of tensors; those of one entry have its index

RESHAPES = {"reshape", "reshape_as", "flatten", "unflatten", "view", "ravel"}
COPIES = {"to", "type", "type_as", "contiguous", "clone", "detach", "cpu", "cuda", "dropout"}
COPIES |= {"float", "double", "half", "bfloat16", "long", "int", "bool", "pin_memory"}
COPIES |= {f"{name}_like" for name in ("rand", "randn", "randint", "zeros", "ones", "empty")}


def is_in_transform() -> bool:
    """Whether a transform of `torch.func` runs, whose tensors have no storage to be looked at."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class Rows(TorchFunctionMode):
    """Follows the tensors of a step from its batch on.

    Attributes:
        size: Samples in the batch.
        is_single: The batch has one sample, so there is nothing to split.
        paused: Do not look at what is computed now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.is_single = False
        self.paused = False
        self._kinds: Any = WeakTensorKeyDictionary()
        self._lists: dict[int, Any] = {}  # by id, and kept, so that no other has it

    def note_batch(self, batch: Any, size: int, stacked: bool) -> None:
        """Follow a batch's tensors.

        Args:
            batch: A collection with tensors in it.
            size: Its samples.
            stacked: The samples are known to be along the first dimension.
        """
        self.size = size
        self._note(batch, stacked, is_field=False)
        self.is_single = size == 1 and ROWS in self._kinds.values()

    def _note(self, value: Any, stacked: bool, is_field: bool = True) -> None:
        if isinstance(value, Tensor):
            has_rows = not value.is_nested and value.ndim > 0 and len(value) == self.size
            # Time steps first, and as many as samples?
            is_doubtful = has_rows and not stacked and value.shape[1:2] == (self.size,)
            self.mark(value, ROWS if has_rows and not is_doubtful else MIXED)
        elif _has_entries(value, self.size) and (is_field or not isinstance(value[0], Tensor)):
            self._lists[id(value)] = value
            for index, entry in enumerate(value):
                for tensor in tensors_in(entry):
                    self.mark(tensor, index)
        else:
            parts = children(value)
            if parts is None and hasattr(value, "__dict__"):
                parts = [part for part in vars(value).values() if isinstance(part, Tensor)]
            for part in parts or ():
                self._note(part, stacked)

    def mark(self, tensor: Tensor, kind: int) -> None:
        """Say what a tensor is."""
        self._kinds[tensor] = kind

    def kind(self, tensor: Tensor) -> int | None:
        """What a tensor is; `None` if it is not made of the batch."""
        kind: int | None = self._kinds.get(tensor)
        return kind

    def is_by_sample(self, values: Any) -> bool:
        """Whether a list has an entry for each sample: one of the batch, or made of one."""
        if id(values) in self._lists:
            return self._lists[id(values)] is values
        if type(values) not in (list, tuple) or len(values) != self.size:
            return False
        kinds = [{self.kind(tensor) for tensor in tensors_in(entry)} for entry in values]
        return kinds == [{index} for index in range(len(values))]

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not (torch.compiler.is_compiling() or self.paused or is_in_transform()):
            inputs = list(tensors_in((args, kwargs)))
            kinds = [self.kind(tensor) for tensor in inputs]
            if any(kind is not None for kind in kinds):
                for tensor in tensors_in(output):
                    self.mark(tensor, self._kind_of(tensor, func, (args, kwargs), inputs, kinds))
        return output

    def _kind_of(
        self,
        output: Tensor,
        func: Callable[..., Any],
        arguments: Any,
        inputs: list[Tensor],
        kinds: list[int | None],
    ) -> int:
        first, *others = {kind for kind in kinds if kind is not None}
        if first >= 0 and not others:
            return first
        sources = [tensor for tensor, kind in zip(inputs, kinds, strict=True) if kind == ROWS]
        has_nested = any(tensor.is_nested for tensor in (output, *inputs))
        if not sources or has_nested or output.ndim == 0 or len(output) != self.size:
            return MIXED
        for source in sources:
            if _share_storage(output, source):
                return ROWS if _rows_lie_in_rows(output, source) else MIXED
        name = getattr(func, "__name__", "")
        if name in RESHAPES or name in COPIES:
            return ROWS if kinds[0] == ROWS and output.numel() == inputs[0].numel() else MIXED
        if "pointwise" in _tags(name):
            return ROWS if any(source.ndim == output.ndim for source in sources) else MIXED
        if "dynamic_output_shape" in _tags(name) and name != "one_hot":
            return MIXED
        seen = [n for source in sources for n in source.shape[1:]]
        seen += [n for t, kind in zip(inputs, kinds, strict=True) if kind != ROWS for n in t.shape]
        seen += [*output.shape[1:], *_ints_in(arguments)]
        return MIXED if self.size in seen else ROWS


def _has_entries(values: Any, size: int) -> bool:
    """Whether a list has an entry for each sample, and not some tensors of all samples."""
    if type(values) not in (list, tuple) or len(values) != size or not size:
        return False
    tensors = list(tensors_in(values))
    return not tensors or any(tensor.ndim == 0 or tensor.size(0) != size for tensor in tensors)


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors in lists, tuples, mappings and dataclasses."""
    if isinstance(values, Tensor):
        yield values
    elif values is not None:
        for value in children(values) or ():
            yield from tensors_in(value)


def _ints_in(values: Any) -> Iterator[int]:
    if isinstance(values, int):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _ints_in(value)
    elif isinstance(values, Mapping):
        yield from _ints_in(list(values.values()))


@cache
def _tags(name: str) -> set[str]:
    """What torch says of the operators of a name."""
    names = (name, name.strip("_"), name.strip("_").removeprefix("r"))
    packets = [getattr(torch.ops.aten, each, None) for each in names]
    packet = next((packet for packet in packets if hasattr(packet, "overloads")), None)
    if packet is None:
        return set()
    return {tag.name for each in packet.overloads() for tag in getattr(packet, each).tags}


def _share_storage(a: Tensor, b: Tensor) -> bool:
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0


def _rows_lie_in_rows(view: Tensor, source: Tensor) -> bool:
    """Whether each row of a view lies in the same row of what it is a view of, both as long."""
    start = view.storage_offset() - source.storage_offset()
    if start == 0 and view.shape == source.shape and view.stride() == source.stride():
        return True
    row = source.stride(0)
    return view.stride(0) == row > _extent(source) and 0 <= start < row - _extent(view)


def _extent(tensor: Tensor) -> int:
    """How far a row's last element in memory is from its first."""
    return sum((n - 1) * s for n, s in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))
