"""Collections as modules take and give them: what is in one, and another like it."""

import copy
from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any


def children(value: Any) -> list[Any] | None:
    """What is in a mapping, list, tuple or dataclass; `None` for anything else."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    return None


def replaceable(value: Any) -> list[Any] | None:
    """As `children`; `None` also for what `rebuild` cannot make another of.

    A mapping of another kind may check what is put into it, or share it with its copy.
    """
    is_other = isinstance(value, Mapping) and not isinstance(value, (dict, UserDict))
    return None if is_other else children(value)


def rebuild(like: Any, values: Sequence[Any]) -> Any:
    """A collection of the same type and names, with other values, in the order of `replaceable`."""
    if type(like) is dict:
        return dict(zip(like, values, strict=True))
    if isinstance(like, Mapping):
        new: Any = copy.copy(like)
        for key, value in zip(list(like), values, strict=True):
            new[key] = value
        return new
    if isinstance(like, tuple) and hasattr(like, "_make"):
        return like._make(values)
    if isinstance(like, (list, tuple)):
        return type(like)(values)
    new = copy.copy(like)
    for field, value in zip(fields(like), values, strict=True):
        object.__setattr__(new, field.name, value)  # frozen ones, too
    return new
