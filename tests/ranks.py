"""Runs a function in several processes that form a process group, as `torchrun` would.

The processes come from a server that has torch and Lightning imported, so they start at once. A
process group lasts for the whole call: one call can train many times.
"""

import logging
import multiprocessing
import os
import pickle
import secrets
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

import torch


def free_port() -> int:
    """A TCP port on loopback that nothing listens on.

    Systems give outgoing connections ports of 32,768 and above: one of those might be taken before
    the test comes to listen on it.
    """
    while True:
        port = 10_000 + secrets.randbelow(22_768)  # whatever seed a test has set
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 90
) -> list[Any]:
    """Call `function(*args)` in `world_size` processes; a `ddp` Trainer in it uses them.

    Returns:
        What each rank returned, in rank order.

    Raises:
        AssertionError: A rank failed, with its traceback, or the time was up.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning.pytorch", "lightning_app.cli", "tests.conftest"])
    queue = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_rank, args=(queue, function, rank, world_size, port, args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    try:
        while len(results) < world_size:
            rank, error, result = queue.get(timeout=timeout_s)
            assert error is None, f"rank {rank} failed:\n{error}"
            results[rank] = pickle.loads(result)
    except Empty:
        missing = sorted(set(range(world_size)) - set(results))
        raise AssertionError(f"ranks {missing} did not end in {timeout_s} s") from None
    finally:
        for process in processes:
            process.join(5)
            process.kill()
            process.join()
    return [results[rank] for rank in range(world_size)]


def as_torchrun(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The variables of a process that torchrun starts."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "TORCHELASTIC_RUN_ID": "tests",
    }


def _rank(
    queue: "Queue[Any]", function: Any, rank: int, world_size: int, port: int, args: Any
) -> None:
    from lightning_app import strategies

    os.environ |= as_torchrun(rank, world_size, port)
    # As in a user's process; else a loader's workers would be asked of the server, too.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    strategies.register()
    logging.getLogger("lightning").setLevel(logging.ERROR)
    try:
        # As bytes: a tensor as such would be shared memory, gone with this process.
        queue.put((rank, None, pickle.dumps(function(*args))))
    except BaseException:
        queue.put((rank, traceback.format_exc(), None))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
