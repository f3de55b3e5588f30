"""How the processes of a run find each other: in limited time, and never in silence.

They meet in a store of torch's. A launcher's store may hold what an earlier start of the same run
has left, so the first rank gives the meeting a name of its own, and all that follows is kept under
it. Each then tells of itself, and gets one answer, the same for all.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from torch.distributed.rendezvous import rendezvous

from lightning_app.command import program
from lightning_app.errors import RunError, UsageError
from lightning_app.limits import WAIT_S
from lightning_app.processes.ranks import say
from lightning_app.processes.start_check import difference, facts, gone, in_few_words, named

SAYS_SO_S = 10.0
ADDRESS_S = 30.0  # a name may become known only after a process has started
POLL_S = 0.02
TRY_S, AGAIN_S = 5.0, 0.2  # to connect once, which a firewall may not answer, and until the next

Answer = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Meeting:
    """The processes of a run, once they have met.

    Attributes:
        store: That they share, for this start of the run alone.
        of_ranks: What each has told of itself, by rank: its host, its pid, …
        answer: What the first rank has answered to all.
    """

    store: Any
    of_ranks: list[dict[str, Any]]
    answer: Any

    def wait_for_all(self, rank: int, limit_s: float) -> None:
        """Wait until all have come to this place as well: each has been busy since they met.

        Args:
            rank: This one's number.
            limit_s: Seconds to wait for them.

        Raises:
            UsageError: They are not all there in time.
        """
        began_s, says_so_s = time.monotonic(), SAYS_SO_S
        self.store.set(f"here/{rank}", "")
        self.store.add("here", 1)
        while self.store.add("here", 0) < len(self.of_ranks):  # asked by all: it has to be short
            waited_s = time.monotonic() - began_s
            if waited_s > min(says_so_s, limit_s):
                here = [self.store.check([f"here/{one}"]) for one in range(len(self.of_ranks))]
                missing = [one for one, is_here in enumerate(here) if not is_here]
                names = in_few_words([named(self.of_ranks, one) for one in missing])
                if waited_s > limit_s:
                    raise UsageError(f"{names} did not come within {limit_s:g} s")
                if here.index(True) == rank:  # one says so for all
                    say(f"waiting for {names}, for at most {limit_s:g} s")
                says_so_s = limit_s
            time.sleep(POLL_S)


@contextmanager
def names_first_rank(of_ranks: list[dict[str, Any]]) -> Iterator[None]:
    """Name the first rank, which holds the ranks' store, where that is gone.

    Args:
        of_ranks: What each has told of itself, by rank.

    Raises:
        RunError: It is.
    """
    try:
        yield
    except dist.DistNetworkError:
        raise RunError(f"{gone(of_ranks, 0)}; the other ranks were about to begin") from None


_early: list[Meeting] = []  # of this process, before there is a strategy that asks for it


def meet(
    environment: ClusterEnvironment,
    says: Any = None,
    answer: Answer = lambda said: None,
    modules: tuple[str | None, ...] = (),
    limit_s: float = WAIT_S,
) -> Meeting:
    """Wait for the run's processes.

    Args:
        environment: Tells this one's place.
        says: What this process has to say, as JSON takes it.
        answer: Makes of what all have said, by rank, what all get to know; called on the first.
        modules: Files of the user's code, which are to be the same everywhere.
        limit_s: Seconds to wait for them.

    Raises:
        UsageError: This one has no place among them, their address is not known, they are not
            all there in time, or differ in what has to be the same.
    """
    rank, world_size = environment.global_rank(), environment.world_size()
    if not 0 <= rank < world_size:
        raise UsageError(
            f"this process is rank {rank} by its launcher's variables, and --devices and "
            f"--num_nodes ask for {world_size} ranks, 0 to {world_size - 1}: make them agree, or "
            "unset the variables"
        )
    address, port = environment.main_address, environment.main_port
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    place = f"{address}:{port}"
    with _told(f"rank {rank} waits for all {world_size} processes at {place}", limit_s):
        _look_up(address)
        deadline = time.monotonic() + limit_s
        try:
            _reach(address, port, rank == 0, deadline)
            found = rendezvous(
                f"env://?rank={rank}&world_size={world_size}", timeout=timedelta(seconds=limit_s)
            )
            shared = next(found)[0]
            own = {"facts": facts(modules), "says": says}
            if rank:
                return _join(shared, rank, own, deadline)
            return _lead(shared, world_size, own, answer, deadline)
        except (dist.DistStoreError, dist.DistNetworkError, TimeoutError) as error:
            raise UsageError(
                f"rank {rank} of {world_size} at MASTER_ADDR={address}, MASTER_PORT={port}: {error}"
            ) from None


def meet_early(*args: Any, **kwargs: Any) -> Meeting:
    """Meet before there is a strategy; the next that asks for the meeting gets this one."""
    _early[:] = [meet(*args, **kwargs)]
    return _early[0]


def meeting(environment: ClusterEnvironment, limit_s: float = WAIT_S) -> Meeting:
    """The early meeting, or one now."""
    return _early.pop() if _early else meet(environment, limit_s=limit_s)


def _lead(shared: Any, world_size: int, own: Any, answer: Answer, deadline: float) -> Meeting:
    """The first rank: name the meeting to all who ask, hear them, and answer."""
    name = uuid.uuid4().hex
    store = dist.PrefixStore(name, shared)  # type: ignore[attr-defined]
    answered: set[str] = set()
    missing = list(range(1, world_size))
    while missing:
        for rank in missing:
            if shared.check([f"asks/{rank}"]):
                asker = shared.get(f"asks/{rank}").decode()
                if asker not in answered:  # of an earlier start, it may be
                    answered.add(asker)
                    shared.set(f"named/{asker}", name)
        missing = [rank for rank in missing if not store.check([f"said/{rank}"])]
        if missing and time.monotonic() > deadline:
            raise TimeoutError(f"rank {in_few_words(missing)} did not come")
        time.sleep(POLL_S if missing else 0)
    said = [own, *(json.loads(store.get(f"said/{rank}")) for rank in range(1, world_size))]
    of_ranks = [one["facts"] for one in said]
    refused = difference(of_ranks)
    told = None if refused else answer([one["says"] for one in said])
    store.set("answer", json.dumps([refused, of_ranks, told]))
    return _result(store, refused, of_ranks, told)


def _join(shared: Any, rank: int, own: Any, deadline: float) -> Meeting:
    """A later rank: ask for the meeting's name, tell of itself, and hear the answer."""
    asker = uuid.uuid4().hex
    shared.set(f"asks/{rank}", asker)
    name = _get(shared, f"named/{asker}", deadline).decode()
    store = dist.PrefixStore(name, shared)  # type: ignore[attr-defined]
    store.set(f"said/{rank}", json.dumps(own))
    return _result(store, *json.loads(_get(store, "answer", deadline)))


def _result(store: Any, refused: str | None, of_ranks: list[Any], told: Any) -> Meeting:
    if refused:
        raise UsageError(refused)
    return Meeting(store, of_ranks, told)


def _get(store: Any, key: str, deadline: float) -> bytes:
    """Not by the store's own wait, which writes to stderr where it was in vain."""
    while not store.check([key]):
        if time.monotonic() > deadline:
            raise TimeoutError("the first rank did not answer")
        time.sleep(POLL_S)
    value: bytes = store.get(key)
    return value


def _look_up(address: str) -> None:
    """Wait until a machine's name is known."""
    deadline = time.monotonic() + ADDRESS_S
    while True:
        try:
            socket.getaddrinfo(address, None)
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline or isinstance(error, UnicodeError):
                raise UsageError(f"MASTER_ADDR={address}: {error}") from None
            time.sleep(1)
        else:
            return


def _reach(address: str, port: int, is_first: bool, deadline: float) -> None:
    """Wait until the store's place answers; torch's wait writes to stderr where it was in vain.

    Args:
        address: Of the store's machine.
        port: Where it listens there.
        is_first: Whether this is the first rank, which may be about to open the store: it listens
            there meanwhile, unless somebody does.
        deadline: By `time.monotonic()`, in seconds.

    Raises:
        TimeoutError: Nothing answers there.
    """
    with _listening(port) if is_first else nullcontext(True) as is_open:
        while True:
            left_s = max(deadline - time.monotonic(), POLL_S)
            try:
                place = (address, port)
                return socket.create_connection(place, timeout=min(left_s, TRY_S)).close()
            except OSError as error:
                if isinstance(error, ConnectionRefusedError) and not is_open:
                    return  # torch cannot listen there either, and tells why
                if time.monotonic() > deadline - POLL_S:
                    raise TimeoutError(f"nothing answers there: {error}") from None
                time.sleep(AGAIN_S)


@contextmanager
def _listening(port: int) -> Iterator[bool]:
    """Listen at a port; whether that can be."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    is_open = False
    with ExitStack() as stack:
        with suppress(OSError):  # somebody else does, or nobody may
            stack.enter_context(
                socket.create_server(("", port), family=family, dualstack_ipv6=dual)
            )
            is_open = True
        yield is_open


@contextmanager
def _told(what: str, limit_s: float) -> Iterator[None]:
    """Say for what this process waits, once it has waited for some time."""
    line = f"{program()}: {what}, for at most {limit_s:g} s\n"
    timer = threading.Timer(SAYS_SO_S, os.write, (2, line.encode()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
