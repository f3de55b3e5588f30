"""What a module's forward writes on itself, where several replicas each do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

State = dict[str, Any]  # by dotted name

# The last two are an RNN's notes of its weights, which it makes anew in a replica.
TORCHS_OWN = {"_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs"}


def attributes(module: Module) -> State:
    """A module's plain attributes, and those of the modules in it."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in TORCHS_OWN
    }


def buffers(module: Module) -> State:
    """A module's buffers, as they are."""
    return dict(module.named_buffers(remove_duplicate=False))


def tensors(module: Module) -> State:
    """A module's parameters and buffers; a replica's parameters have another place."""
    return {
        f"{path}.{name}".lstrip("."): value.detach()
        for path, part in module.named_modules()
        for own in (part._parameters, vars(part).get("_former_parameters", {}), part._buffers)
        for name, value in own.items()
        if value is not None
    }


def set_by_name(module: Module, state: State) -> None:
    """Set attributes and buffers of a module, and of those in it; no methods of a replica."""
    parts = dict(module.named_modules(remove_duplicate=False))
    for full_name, value in state.items():
        path, _, name = full_name.rpartition(".")
        if path in parts and not callable(value):  # a replica may have made a layer
            setattr(parts[path], name, value)


def written(before: State, after: State) -> State:
    """The attributes that were set between two looks at them."""
    return {
        name: value
        for name, value in after.items()
        if name not in before or before[name] is not value
    }


def differing(states: Sequence[State]) -> list[str]:
    """The names under which replicas have different values; a name that one lacks is left out."""
    names = dict.fromkeys(name for state in states for name in state)
    return [
        name for name in names if not _are_equal([state[name] for state in states if name in state])
    ]


def _are_equal(values: Sequence[Any]) -> bool:
    first = values[0]
    if isinstance(first, Tensor):
        return all(isinstance(v, Tensor) and torch.equal(first.cpu(), v.cpu()) for v in values)
    if isinstance(first, (bool, int, float, str, type(None))):
        return all(type(value) is type(first) and value == first for value in values)
    return all(value is first for value in values)


class BuffersByRank:
    """Lets replicas that are one module begin with the same buffers.

    The first uses the module's own, each other a copy of them as they were.
    """

    def __init__(self, module: Module, num_replicas: int) -> None:
        self._owners = [part._buffers for part in module.modules() if part._buffers]
        self._copies = [self._copy() for _ in range(num_replicas - 1)]

    def _copy(self) -> list[dict[str, Tensor | None]]:
        known: dict[int, Tensor] = {}  # one that two modules share stays shared
        return [
            {
                name: None if tensor is None else known.setdefault(id(tensor), tensor.clone())
                for name, tensor in owner.items()
            }
            for owner in self._owners
        ]

    @contextmanager
    def of(self, rank: int) -> Iterator[None]:
        """Give a rank its buffers for as long as its forward runs."""
        kept = [dict(owner) for owner in self._owners]
        for owner, copies in zip(
            self._owners, self._copies[rank - 1] if rank else kept, strict=True
        ):
            owner.update(copies)
        try:
            yield
        finally:
            if rank:
                for owner, before in zip(self._owners, kept, strict=True):
                    owner.update(before)
