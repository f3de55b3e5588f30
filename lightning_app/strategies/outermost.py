"""Has a step's calls of outermost modules answered by someone else, hooks around them included.

A module's hooks run in `nn.Module.__call__`, around its `forward`. To let them run once, where
the call is made, only the `forward` within is replaced, and for that one call: nothing stays in a
module's attributes, so it can be copied and pickled at any time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import Module

Answer = Callable[[Module, tuple[Any, ...], dict[str, Any]], Any]

_answer: ContextVar[Answer | None] = ContextVar("answer", default=None)


class OutermostCalls:
    """Watches the calls of all modules, from `watch` to `stop`.

    The class is changed once for a run, and not around each step, which would cost every module's
    attributes their cache.
    """

    def __init__(self) -> None:
        self._usual: Callable[..., Any] | None = None

    def watch(self) -> None:
        """Begin; calls go on as usual outside of `answered_by`."""
        if self._usual is not None:
            return
        usual = self._usual = Module.__call__

        def call(module: Module, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():  # the user's own `torch.compile`, of inner modules
                return usual(module, *args, **kwargs)
            answer = _answer.get()
            if answer is None or next(module.parameters(), None) is None:
                return usual(module, *args, **kwargs)
            with _forward_once(module, answer):
                return usual(module, *args, **kwargs)

        Module.__call__ = call  # type: ignore[method-assign]

    def stop(self) -> None:
        """End."""
        if self._usual is not None:
            Module.__call__ = self._usual  # type: ignore[method-assign]
            self._usual = None


@contextmanager
def answered_by(answer: Answer | None) -> Iterator[None]:
    """Let `answer` stand for the `forward` of each module with parameters, within this thread."""
    token = _answer.set(answer)
    try:
        yield
    finally:
        _answer.reset(token)


@contextmanager
def _forward_once(module: Module, answer: Answer) -> Iterator[None]:
    names = vars(module)
    own = {"forward": names["forward"]} if "forward" in names else {}

    def put_back() -> None:
        names.pop("forward", None)
        names.update(own)

    def forward(*args: Any, **kwargs: Any) -> Any:
        put_back()
        with answered_by(None):
            return answer(module, args, kwargs)

    names["forward"] = forward
    try:
        yield
    finally:
        put_back()
