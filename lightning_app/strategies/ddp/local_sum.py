"""Small gradients of processes on one machine's CPU, summed over local sockets.

gloo hands each message to threads of its own, and to TCP: with a small model's gradients that takes
several times as long as the model's step. Here the other ranks send theirs to the first one, which
adds them up in the order of ranks and sends the sum back. `DistributedDataParallel` takes this as
a communication hook.

Left to gloo: large buckets, sparse gradients, and everything where the ranks cannot reach each
other by a local socket.
"""

import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.constants import default_pg_timeout

from lightning_app.processes.ranks import say

MAX_BYTES = 2**20  # of a bucket; with larger ones gloo, which divides the work, is faster
CONNECT_S = 60.0
KEY_BYTES = 16
RANK_BYTES = 4
SAYS_SO_S = 10.0  # after which a rank tells for whom it waits

Address: TypeAlias = tuple[int, Any]  # a socket's family, and where it listens


class LocalSum:
    """Connects the ranks of a process group; all of them have to make one at the same time.

    Args:
        timeout: After which a rank that is waited for is given up, in a sum.
    """

    def __init__(self, timeout: timedelta = default_pg_timeout) -> None:
        self._timeout = timeout
        self._rank = dist.get_rank()
        self._has_said = False
        self._peers: dict[int, socket.socket] = {}  # the other ranks; to them, the first one
        try:
            self._connect_first() if self._rank == 0 else self._connect_other()
            reached = True
        except OSError:
            reached = False
        all_reached = torch.tensor(int(reached))
        dist.all_reduce(all_reached, op=dist.ReduceOp.MIN)
        self.is_connected = bool(all_reached)
        if not self.is_connected:
            self.close()
        for peer in self._peers.values():
            peer.settimeout(min(SAYS_SO_S, timeout.total_seconds()))
            if peer.family == socket.AF_INET:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _connect_first(self) -> None:
        key, num_others = secrets.token_bytes(KEY_BYTES), dist.get_world_size() - 1
        where: list[Any] = [None, key]
        listener = None
        try:
            listener, where[0] = _listen(num_others)
        finally:
            dist.broadcast_object_list(where)  # also if it failed: the others wait for it
        with listener:
            deadline = time.monotonic() + CONNECT_S
            while len(self._peers) < num_others:
                listener.settimeout(max(deadline - time.monotonic(), 0.001))
                peer, _ = listener.accept()
                peer.settimeout(CONNECT_S)
                hello = bytes(_receive(peer, bytearray(KEY_BYTES + RANK_BYTES)))
                if secrets.compare_digest(hello[:KEY_BYTES], key):
                    self._peers[int.from_bytes(hello[KEY_BYTES:], "little")] = peer
                else:
                    peer.close()
        self._peers = dict(sorted(self._peers.items()))

    def _connect_other(self) -> None:
        where: list[Any] = [None, None]
        dist.broadcast_object_list(where)
        address, key = where
        if address is None:
            raise ConnectionError("the first rank does not listen")
        family, name = address
        first = self._peers[0] = socket.socket(family, socket.SOCK_STREAM)
        first.settimeout(CONNECT_S)
        first.connect(name)
        first.sendall(key + self._rank.to_bytes(RANK_BYTES, "little"))

    def hook(
        self,
        group: dist.ProcessGroup,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """Average a bucket of gradients over the ranks; `DistributedDataParallel` calls this."""
        gradients = bucket.buffer()
        if not self.is_connected or gradients.is_sparse or gradients.nbytes > MAX_BYTES:
            return allreduce_hook(group, bucket)
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(self.sum(gradients.div_(group.size())))
        return future

    def sum(self, tensor: Tensor) -> Tensor:
        """Make of a CPU tensor `(N,)` its sum over all ranks, which all have to call this.

        Raises:
            ConnectionError: Another rank has ended.
            TimeoutError: Another rank does not come to its sum.
        """
        own = tensor.view(torch.uint8).numpy().data
        rank = 0
        try:
            if self._rank > 0:
                self._send(0, own)
                self._wait_for(0, own)
                return tensor
            part = torch.empty_like(tensor)
            for rank in self._peers:
                self._wait_for(rank, part.view(torch.uint8).numpy().data)
                tensor += part
            for rank in self._peers:
                self._send(rank, own)
            return tensor
        except TimeoutError:
            raise TimeoutError(
                f"rank {self._rank} waited {self._timeout} for the gradients of rank {rank}, which "
                "did not come to this step's backward pass"
            ) from None
        except OSError as error:
            raise ConnectionError(f"rank {rank} has ended; what it printed tells why") from error

    def _wait_for(self, rank: int, buffer: Any) -> None:
        """Fill a buffer with what a rank sends; tell, once in a run, that it takes long."""
        deadline = time.monotonic() + self._timeout.total_seconds()
        _receive(self._peers[rank], buffer, lambda: self._goes_on(rank, deadline))

    def _send(self, rank: int, buffer: Any) -> None:
        deadline = time.monotonic() + self._timeout.total_seconds()
        rest = memoryview(buffer)
        while rest:
            try:
                rest = rest[self._peers[rank].send(rest) :]
            except TimeoutError:
                if not self._goes_on(rank, deadline):
                    raise

    def _goes_on(self, rank: int, deadline: float) -> bool:
        left_s = deadline - time.monotonic()
        if left_s > 0 and not self._has_said and self._rank < 2:  # of many ranks one is enough
            self._has_said = True
            wait = f"for at most {left_s:.0f} s more"
            say(f"rank {self._rank} waits for the gradients of rank {rank}, {wait}")
        return left_s > 0

    def close(self) -> None:
        """End the connections."""
        for peer in self._peers.values():
            peer.close()
        self._peers = {}


def _listen(num_others: int) -> tuple[socket.socket, Address]:
    """A socket that listens to processes of this machine, and its address."""
    if sys.platform == "linux":
        # By a name that is not a path: a temporary folder may be deep, or a rank's own.
        with suppress(OSError):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind("")
            listener.listen(num_others)
            return listener, (socket.AF_UNIX, listener.getsockname())
    listener = socket.create_server(("127.0.0.1", 0), backlog=num_others)
    return listener, (socket.AF_INET, listener.getsockname())


def _receive(
    connection: socket.socket, buffer: Any, goes_on: Callable[[], bool] = lambda: False
) -> Any:
    """Fill a buffer.

    Args:
        connection: From where.
        buffer: What to fill.
        goes_on: Called when nothing has come for the connection's timeout: whether to wait on.

    Raises:
        ConnectionError: The other side has ended.
        TimeoutError: It sends nothing.
    """
    rest = memoryview(buffer)
    while rest:
        try:
            num_bytes = connection.recv_into(rest)
        except TimeoutError:
            if goes_on():
                continue
            raise
        if num_bytes == 0:
            raise ConnectionError("closed")
        rest = rest[num_bytes:]
    return buffer
