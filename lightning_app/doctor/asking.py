"""A question with a time limit, under way while others are asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Asking(Generic[T]):
    """Asks in a thread of its own, for which nobody waits beyond the limit."""

    def __init__(self, what: str, question: Callable[[], T], limit_s: float) -> None:
        """Starts asking.

        Args:
            what: What is asked for, as a reader knows it.
            question: Gives the answer, or raises.
            limit_s: Seconds from now.
        """
        self._what = what
        self._question = question
        self._limit_s = limit_s
        self._until = time.monotonic() + limit_s
        self._value: T | None = None
        self._error: Exception | None = None
        # A daemon: a call that never returns must not keep the program from ending.
        self._thread = Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._value = self._question()
        except Exception as error:  # whatever one layer raises, the others have their say
            self._error = error

    def answer(self, unknown: list[str]) -> T | None:
        """Waits for the answer, within the limit.

        Args:
            unknown: Gets a line that says why, if there is none.
        """
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._thread.is_alive():
            unknown.append(f"{self._what}: no answer in {self._limit_s:g} s")
            return None
        if self._error is not None:
            unknown.append(f"{self._what}: {_one_line(self._error)}")
        return self._value


def _one_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
