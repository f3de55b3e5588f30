"""How something is added around a method of Lightning's loops, and taken away again.

The loops have places that no hook reaches: after the last hook of a step, say. They look their
methods up on themselves, so one that an instance has of its own is called. The loops are not
public; tests notice if they change.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

_BEFORE = "was_there_before"


def follow(owner: Any, method: str, action: Callable[[], None]) -> None:
    """Have `action` called each time after `owner.method`, until it is given back."""
    usual = getattr(owner, method)

    @wraps(usual)
    def followed(*args: Any, **kwargs: Any) -> Any:
        result = usual(*args, **kwargs)
        action()
        return result

    put(owner, method, followed)


def precede(owner: Any, method: str, action: Callable[[], None]) -> None:
    """Have `action` called each time before `owner.method`, until it is given back."""
    usual = getattr(owner, method)

    @wraps(usual)
    def preceded(*args: Any, **kwargs: Any) -> Any:
        action()
        return usual(*args, **kwargs)

    put(owner, method, preceded)


def surround(owner: Any, method: str, context: Callable[[], AbstractContextManager[None]]) -> None:
    """Have each call of `owner.method` run within a new context, until it is given back."""
    usual = getattr(owner, method)

    @wraps(usual)
    def surrounded(*args: Any, **kwargs: Any) -> Any:
        with context():
            return usual(*args, **kwargs)

    put(owner, method, surrounded)


def put(owner: Any, method: str, function: Callable[..., Any]) -> None:
    """Have an object use a function as one of its methods, until it is given back."""
    vars(function)[_BEFORE] = function, vars(owner).get(method)
    setattr(owner, method, function)


def give_back(owner: Any, *methods: str) -> None:
    """Leave an object with the methods that it had; once is enough, and twice does no harm."""
    for method in methods:
        found = vars(owner).pop(method, None)
        # `wraps` gives a wrapper of somebody else's the note of what it wraps.
        while (note := getattr(found, "__dict__", {}).get(_BEFORE)) and note[0] is found:
            found = note[1]
        if found is not None:  # somebody had put it there
            setattr(owner, method, found)
