"""Small gradients of processes on one machine's CPU, summed over local sockets.

gloo hands each message to threads of its own, and to TCP: with a small model's gradients that takes
several times as long as the model's step. Here the other ranks send theirs to the first one, which
adds them up in the order of ranks and sends the sum back. `DistributedDataParallel` takes this as
a communication hook.
"""

import secrets
from multiprocessing.connection import Client, Connection, Listener

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

MAX_BYTES = 2**20  # of a bucket; with larger ones gloo, which divides the work, is faster


class LocalSum:
    """Connects the ranks of a process group; all of them have to make one at the same time."""

    def __init__(self) -> None:
        key, world_size = secrets.token_bytes(16), dist.get_world_size()
        if dist.get_rank() == 0:
            with Listener(backlog=world_size, authkey=key) as listener:
                dist.broadcast_object_list([listener.address, key])
                accepted = [listener.accept() for _ in range(1, world_size)]
            by_rank = {int(connection.recv_bytes()): connection for connection in accepted}
            self._others = [by_rank[rank] for rank in range(1, world_size)]
            self._first: Connection | None = None
        else:
            where: list[object] = [None, None]
            dist.broadcast_object_list(where)
            self._first, self._others = Client(where[0], authkey=where[1]), []  # type: ignore[arg-type]
            self._first.send_bytes(str(dist.get_rank()).encode())

    def hook(
        self,
        group: dist.ProcessGroup,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """Average a bucket of gradients over the ranks; `DistributedDataParallel` calls this."""
        gradients = bucket.buffer()
        if gradients.nbytes > MAX_BYTES:
            return allreduce_hook(group, bucket)
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(self.sum(gradients.div_(group.size())))
        return future

    def sum(self, tensor: Tensor) -> Tensor:
        """Make of a CPU tensor `(N,)` its sum over all ranks, which all have to call this.

        Raises:
            ConnectionError: Another rank has ended.
        """
        try:
            return self._sum(tensor)
        except (EOFError, OSError) as error:
            raise ConnectionError("another rank has ended; what it printed tells why") from error

    def _sum(self, tensor: Tensor) -> Tensor:
        own = tensor.view(torch.uint8).numpy().data
        if self._first is not None:
            self._first.send_bytes(own)
            self._first.recv_bytes_into(own)
            return tensor
        part = torch.empty_like(tensor)
        for rank in self._others:
            rank.recv_bytes_into(part.view(torch.uint8).numpy().data)
            tensor += part
        for rank in self._others:
            rank.send_bytes(own)
        return tensor

    def close(self) -> None:
        """End the connections."""
        for connection in (self._first, *self._others):
            if connection is not None:
                connection.close()
