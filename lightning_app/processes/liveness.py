"""Which rank the others wait for: each tells how far it is, and why it ends, if it can.

A collective that fails tells only that some connection has ended, or that time is up. What a
thread of each rank writes into the ranks' store, every few seconds, also while its main thread
hangs, tells a host that is gone from a rank that is stuck, and since when.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from lightning_app.processes.start_check import gone, named

T = TypeVar("T")

BEAT_S = 2.0
MISSED = 3  # beats, after which a rank is taken for gone
HEARSAY_S = 1.0  # for others to tell why they end
STORE_S = 5.0  # to wait for an answer of the store
MAX_NAMED = 4

_here: list["Liveness"] = []  # of this process


class Liveness:
    """This rank's part in it, and its view of the others.

    Args:
        store: What the ranks share.
        rank: This one's number.
        of_ranks: Host and pid of each, by rank.

    Attributes:
        step: The optimizer step that this rank is in.
        limit_s: Seconds for which the others are waited for.
    """

    def __init__(self, store: Any, rank: int, of_ranks: Sequence[Mapping[str, Any]]) -> None:
        self.step = 0
        self._store = store.clone()  # a connection of its own: another may wait in it
        self._store.set_timeout(timedelta(seconds=STORE_S))
        self._rank, self._of_ranks = rank, of_ranks
        self.limit_s = 0.0
        self._number = 0  # of beats
        self.start()

    def start(self) -> None:
        """Tell, until `end` is called."""
        self._is_over = threading.Event()
        beat = (self._is_over,)
        threading.Thread(target=self._beat, args=beat, daemon=True, name="liveness").start()

    def _beat(self, is_over: threading.Event) -> None:
        seen, since = -1, ""
        with suppress(RuntimeError):  # the first rank has ended, and the store with it
            while not is_over.is_set():
                self._number += 1
                if self.step != seen:
                    seen, since = self.step, time.strftime("%H:%M:%S")
                now = time.strftime("%H:%M:%S")
                self._store.set(f"alive/{self._rank}", json.dumps([self._number, seen, since, now]))
                is_over.wait(BEAT_S)

    @property
    def is_over(self) -> bool:
        """Whether it has stopped telling."""
        return self._is_over.is_set()

    def end(self) -> None:
        """Stop telling."""
        self._is_over.set()

    def tell_own(self, reason: str) -> None:
        """Leave for the others why this rank ends."""
        told = json.dumps([self.step, reason])
        in_time(lambda: self._store.set(f"left/{self._rank}", told), STORE_S)

    def why(self, is_timeout: bool, place: str = "") -> str | None:
        """As the function of this name."""
        found = in_time(
            lambda: (self._why(is_timeout, place),), HEARSAY_S + BEAT_S * MISSED + STORE_S
        )
        if found is None:
            return self._of_lost_store() if self._speaks({0}) else ""
        return found[0]

    def _why(self, is_timeout: bool, place: str) -> str | None:
        self._store.set(f"left/{self._rank}", json.dumps([self.step, "", place]))
        left, earlier = self._hear(), self._alive()
        if is_timeout and len(left) < len(self._of_ranks) and not _causes(left):
            time.sleep(BEAT_S * MISSED)
            left = self._left()
        later = self._alive()
        causes = _causes(left)
        missing = [rank for rank in range(len(self._of_ranks)) if rank not in left]
        # The first that waits in vain closes the others' connections; so does one that is lost.
        apart = list(self._of_places(left)) if is_timeout or not missing else []
        if not causes and not missing and not apart:
            return None
        if not self._speaks({*causes, *missing}):
            return ""
        if causes:
            rank, (step, cause) = next(iter(causes.items()))
            return f"{named(self._of_ranks, rank)} ended at step {step}: {cause}"
        lines = (
            self._of_missing(rank, earlier.get(rank), later.get(rank), is_timeout)
            for rank in missing[:MAX_NAMED]
        )
        more = ["…"] * (len(missing) > MAX_NAMED)
        return "; ".join([*lines, *more, *apart])

    def _of_places(self, left: Mapping[int, Any]) -> Iterator[str]:
        """Where some ranks have waited, and not all of them."""
        places = {rank: told[2] for rank, told in left.items() if told[2:] and told[2]}
        for rank, place in places.items() if len(places) < len(self._of_ranks) else ():
            yield f"{named(self._of_ranks, rank)} waited in {place}: every process has to call that"

    def _of_missing(self, rank: int, earlier: Any, later: Any, is_timeout: bool) -> str:
        one = named(self._of_ranks, rank)
        if later is None:
            return f"{one} has not been heard from"
        beats, step, since, last = later
        if not is_timeout:
            return f"{one} has ended, or cannot be reached, at step {step} (last heard at {last})"
        if earlier is not None and beats == earlier[0]:
            return f"{gone(self._of_ranks, rank)}; it was last heard at {last}, at step {step}"
        return (
            f"{one} is alive, but the others have waited for it for {self.limit_s:g} s: it is at "
            f"step {step}, since {since}"
        )

    def _of_lost_store(self) -> str:
        return f"{gone(self._of_ranks, 0)}; this is rank {self._rank}, at step {self.step}"

    def _hear(self) -> dict[int, Any]:
        """Who ends as well, and why; waits for a first cause."""
        deadline = time.monotonic() + HEARSAY_S
        while True:
            left = self._left()
            is_enough = _causes(left) or len(left) == len(self._of_ranks)
            if is_enough or time.monotonic() > deadline:
                return left
            time.sleep(BEAT_S / 20)

    def _left(self) -> dict[int, Any]:
        return {rank: json.loads(text) for rank, text in self._all("left")}

    def _alive(self) -> dict[int, list[Any]]:
        return {rank: json.loads(text) for rank, text in self._all("alive")}

    def _all(self, what: str) -> list[tuple[int, bytes]]:
        keys = {rank: f"{what}/{rank}" for rank in range(len(self._of_ranks))}
        return [(r, self._store.get(key)) for r, key in keys.items() if self._store.check([key])]

    def _speaks(self, others: set[int]) -> bool:
        """Whether this is the first of its host's ranks that are left."""
        host = self._of_ranks[self._rank]["host"]
        on_host = (rank for rank, own in enumerate(self._of_ranks) if own["host"] == host)
        return next((rank for rank in on_host if rank not in others), None) == self._rank


def in_time(ask: Callable[[], T], limit_s: float) -> T | None:
    """What a store answers; `None` if it does not, in time: its client has no limit of its own.

    Args:
        ask: Asks it.
        limit_s: Seconds to wait.
    """
    found: list[T] = []

    def run() -> None:
        with suppress(RuntimeError):  # it has ended
            found.append(ask())

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(limit_s)
    return found[0] if found else None


def _causes(left: Mapping[int, Any]) -> dict[int, Any]:
    """Of the ranks that end those with a reason of their own, with their steps."""
    return {rank: told for rank, told in left.items() if told[1]}


def begin(store: Any, rank: int, of_ranks: Sequence[Mapping[str, Any]]) -> Liveness:
    """Have this process tell that it is alive, until it ends or `end` is called."""
    for earlier in _here:
        earlier.end()
    _here[:] = [Liveness(store, rank, of_ranks)]
    return _here[0]


def go_on() -> Liveness | None:
    """Have this process tell again, after `end`.

    Returns:
        What tells; `None` if it never has, or does so for a run that this one is within.
    """
    for own in _here:
        if own.is_over:
            own.start()
            return own
    return None


def limit(limit_s: float) -> None:
    """Note for how long the others are waited for."""
    for own in _here:
        own.limit_s = limit_s


def tell_own(reason: str) -> None:
    """Leave for the others why this rank ends, if there are others."""
    for own in _here:
        own.tell_own(reason)


def why(is_timeout: bool, place: str = "") -> str | None:
    """Why a collective failed here, in one line: who is missing, where, since when.

    Args:
        is_timeout: Whether the others were waited for in vain, and no connection ended.
        place: What this rank was in, if that may be where the others do not come.

    Returns:
        The line; empty if another rank of this host tells it; `None` if nothing is known.
    """
    return _here[0].why(is_timeout, place) if _here else None


def write_error_file(text: str, frames: str = "") -> None:
    """Leave an error where torchrun looks for it, for its summary; the first one stays.

    Args:
        text: In one line.
        frames: The traceback.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path or os.path.exists(path):
        return
    named = f"{socket.gethostname()}, rank {os.environ.get('RANK', 0)}: {text}"
    extra = {"py_callstack": frames or named, "timestamp": str(int(time.time()))}
    with suppress(OSError), open(path, "w", encoding="utf-8") as file:
        json.dump({"message": {"message": named, "extraInfo": extra}}, file)
