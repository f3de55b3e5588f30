"""What a run on one machine listens on is reached from this machine alone.

torch's store, where ranks meet, asks for no password and listens on every network interface; gloo
takes the one of the machine's name. Not covered: Windows, and NCCL, which chooses its interface.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment

LOOPBACK = "127.0.0.1"
INTERFACES = ("lo", "lo0")
GLOO = "GLOO_SOCKET_IFNAME"


@contextmanager
def on_loopback(environment: ClusterEnvironment | None, rank: int) -> Iterator[None]:
    """Within it a process group that is made between the processes of one machine stays in there.

    Args:
        environment: Of the run. What another launcher or an address of the user's says, is done.
        rank: Of this process.
    """
    store = None
    if (
        sys.platform != "win32"
        and type(environment) is LightningEnvironment
        and environment.main_address == LOOPBACK
    ):
        names = [name for _, name in socket.if_nameindex()]
        if own := next((name for name in INTERFACES if name in names), None):
            os.environ.setdefault(GLOO, own)  # also for groups that are made later
        if rank == 0:
            with suppress(OSError, RuntimeError):  # torch tells of a port that is taken
                store = _listen(environment.main_port)
    yield
    del store  # by now torch's own store, which shares the server


def _listen(port: int) -> Any:
    """A store whose server torch finds, by its port, when it makes its own."""
    listener = socket.create_server((LOOPBACK, port), backlog=1024)
    return dist.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK,
        port,
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )
