"""From parsed JSON to nested frozen dataclasses, by their type hints, strictly."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def decode(cls: type[T], value: object, where: str) -> T:
    """Builds a dataclass from parsed JSON.

    Args:
        cls: A dataclass of str, int, bool, None, ``dict[str, str]``, tuples and such dataclasses.
        value: What ``json.loads`` gave.
        where: Name of the value in messages.

    Raises:
        ValueError: If a field does not exist or has another type; the message names it.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {value!r:.60}")
    hints = _hints(cls)
    for key in value:
        if key not in hints:
            raise ValueError(f"{where}: no field {key!r}")
    return cls(**{key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {each.name: hints[each.name] for each in fields(cls)}


def _convert(hint: Any, value: object, where: str) -> object:
    if get_origin(hint) in (Union, types.UnionType):
        inner, none = get_args(hint)
        assert none is type(None)
        return None if value is None else _convert(inner, value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {value!r:.60}")
        return tuple(_convert(get_args(hint)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, got {value!r:.60}")
        return {str(key): _convert(str, item, f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return decode(hint, value, where)  # type: ignore[arg-type]
    # A bool is an int to isinstance, but not a count.
    if type(value) is not hint:
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r:.60}")
    return value
