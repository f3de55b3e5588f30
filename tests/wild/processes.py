"""Groups of processes that run many cases one after the other, each case under a time limit.

Lightning takes seconds to import and a first run is twice as slow as the next, so a group is kept.
One that hangs, or in which a rank fails alone, is ended, and the next case gets a new one.
"""

import multiprocessing
import os
import pickle
import shutil
import time
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from tests.ranks import as_torchrun, free_port
from tests.wild.case import GPU_LAYOUTS, RANKS
from tests.wild.recording import Result, run

GRACE_S = 15  # for the other ranks, when one has failed


class Hung(AssertionError):
    """A run did not end in time."""


class Group:
    """Some ranks' processes, started when they are needed."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._ranks: list[tuple[Any, Connection]] = []

    def run(
        self, name: str, layout: str, folder: Path, timeout_s: float, without: str = ""
    ) -> list[Result]:
        """Run a case on all ranks.

        Args:
            name: Of the case.
            layout: How it is run.
            folder: Where.
            timeout_s: How long it may take.
            without: The mechanism that is broken for it; none by default.

        Raises:
            Hung: It did not end in time.
        """
        if not self._ranks:
            self._start()
        port = free_port()
        for _, connection in self._ranks:
            connection.send((name, layout, folder, port, without))
        results = self._results(time.monotonic() + timeout_s)
        missing = [rank for rank in range(self._world_size) if rank not in results]
        if missing or any(result.error for result in results.values()):
            self.end()
        failed = [
            f"rank {rank}: {result.error}" for rank, result in results.items() if result.error
        ]
        if missing:
            told = "\n".join(failed) or f"the others ended with {_endings(results)}"
            raise Hung(f"ranks {missing} did not end in {timeout_s} s\n{told}")
        return [results[rank] for rank in range(self._world_size)]

    def _results(self, deadline_s: float) -> dict[int, Result]:
        results: dict[int, Result] = {}
        rank_of = {connection: rank for rank, (_, connection) in enumerate(self._ranks)}
        while len(results) < self._world_size:
            open_ = [c for c, rank in rank_of.items() if rank not in results]
            ready = wait(open_, timeout=max(0.0, deadline_s - time.monotonic()))
            if not ready:
                break
            for connection in ready:
                assert isinstance(connection, Connection)
                try:
                    result = pickle.loads(connection.recv_bytes())
                except EOFError:
                    result = Result(error="the process died")
                results[rank_of[connection]] = result
                if result.status != 0:
                    deadline_s = min(deadline_s, time.monotonic() + GRACE_S)
        return results

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["lightning.pytorch", "lightning_app.cli.program", "tests.conftest"]
        )
        for rank in range(self._world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, self._world_size))
            process.start()
            theirs.close()
            self._ranks.append((process, ours))

    def end(self) -> None:
        """End the processes, whatever they do; those that wait for work end by themselves."""
        for _, connection in self._ranks:
            connection.close()
        for process, _ in self._ranks:
            process.join(1)
            process.kill()
            process.join()
        self._ranks = []


def _endings(results: dict[int, Result]) -> list[tuple[int | None, str]]:
    return [(result.status, result.stderr[-500:]) for result in results.values()]


def _serve(connection: Connection, rank: int, world_size: int) -> None:
    """What a rank's process does: run what it is told to, until nobody listens any more."""
    from lightning_utilities.core.rank_zero import rank_zero_only

    torch.set_num_threads(1)
    # As in a user's process; else a loader's workers would be asked of the server, too.
    multiprocessing.set_start_method("fork", force=True)
    with suppress(EOFError, OSError):  # the other end was closed
        while True:
            name, layout, folder, port, without = connection.recv()
            rank_zero_only.rank = rank  # type: ignore[attr-defined]
            if world_size > 1:
                os.environ |= as_torchrun(rank, world_size, port)
            if layout in GPU_LAYOUTS:  # a host for each rank
                os.environ |= {"LOCAL_RANK": "0", "GROUP_RANK": str(rank), "LOCAL_WORLD_SIZE": "1"}
            from tests.wild.cases import CASES

            with _without(without):
                result = run(CASES[name], layout, folder)
            connection.send_bytes(pickle.dumps(result))


def _without(mechanism: str) -> AbstractContextManager[Any]:
    if not mechanism:
        return nullcontext()
    from tests.wild.mechanisms import MECHANISMS

    return MECHANISMS[mechanism].off()


class Lane:
    """Runs on one group of processes, one after the other.

    Attributes:
        outcomes: Of each case and layout what its ranks ended with.
    """

    def __init__(self, world_size: int) -> None:
        self._group = Group(world_size)
        self.outcomes: dict[tuple[str, str], Future[list[Result]]] = {}

    def add(self, name: str, layout: str) -> None:
        """Have a case run on a layout."""
        self.outcomes.setdefault((name, layout), Future())

    def work(self, folder: Path, timeouts_s: dict[str, float]) -> None:
        """Run all that was added."""
        try:
            for (name, layout), future in self.outcomes.items():
                if not future.set_running_or_notify_cancel():
                    continue
                place = folder / f"{name}-{layout}".replace(" ", "_")
                try:
                    future.set_result(self._group.run(name, layout, place, timeouts_s[name]))
                except Exception as error:
                    future.set_exception(error)
                finally:
                    shutil.rmtree(place, ignore_errors=True)
        finally:
            self._group.end()


def lanes_of(pairs: list[tuple[str, str]]) -> list[Lane]:
    """Lanes for what is to be run, the plain runs apart: `main` leaves nothing behind in them."""
    lanes: dict[tuple[int, bool], Lane] = {}
    for name, layout in pairs:
        kind = RANKS[layout], layout == "plain"
        lanes.setdefault(kind, Lane(kind[0])).add(name, layout)
    return list(lanes.values())
