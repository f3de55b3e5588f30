"""How the processes of a run find each other: in limited time, and never in silence."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from torch.distributed.rendezvous import rendezvous

from lightning_app.command import program
from lightning_app.errors import UsageError
from lightning_app.limits import WAIT_S

SAYS_SO_S = 10.0
ADDRESS_S = 30.0  # a name may become known only after a process has started


def meet(environment: ClusterEnvironment) -> Any:
    """Wait for the run's processes.

    Args:
        environment: Tells this one's place.

    Returns:
        The store that they share, for `init_process_group`.

    Raises:
        UsageError: This one has no place among them, their address is not known, or they are not
            all there in time.
    """
    rank, world_size = environment.global_rank(), environment.world_size()
    if not 0 <= rank < world_size:
        raise UsageError(
            f"this process is rank {rank} by its launcher's variables, and --devices and "
            f"--num_nodes ask for {world_size}, from 0 up: let them agree, or unset the variables"
        )
    address, port = environment.main_address, environment.main_port
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    with _told(f"rank {rank} waits for all {world_size} processes at {address}:{port}"):
        _look_up(address)
        try:
            return next(
                rendezvous(
                    f"env://?rank={rank}&world_size={world_size}",
                    timeout=timedelta(seconds=WAIT_S),
                )
            )[0]
        except (dist.DistStoreError, dist.DistNetworkError) as error:
            raise UsageError(
                f"rank {rank} of {world_size} at MASTER_ADDR={address}, MASTER_PORT={port}: {error}"
            ) from None


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


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say for what this process waits, once it has waited for some time."""
    line = f"{program()}: {what}, for at most {WAIT_S:g} s\n"
    timer = threading.Timer(SAYS_SO_S, os.write, (2, line.encode()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
