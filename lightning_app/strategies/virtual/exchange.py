"""What processes tell each other in a step: small objects, and sums of gradients.

Gradients are added up in slices: each process gets one slice of all partial sums, adds them up by
the tree, and what comes of it is gathered. With as many processes as virtual ranks that is as much
traffic as any all-reduce has, in two collectives; else up to 2·log2(V) times the first half of it.
"""

import pickle
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_app.strategies.virtual.tree import Node, tree_sum

T = TypeVar("T")

HEADER = 8  # bytes that tell how many follow


class Exchange:
    """Connects the processes of a run, of which there may be only one.

    Args:
        device: Where tensors have to be for the process group.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._room = 2048  # bytes of an object that need no second collective
        is_alone = not (dist.is_available() and dist.is_initialized())
        self.world_size = 1 if is_alone else dist.get_world_size()
        self.rank = 0 if is_alone else dist.get_rank()

    def gather(self, value: T) -> list[T]:
        """Every process's value, in rank order, on all of them; all of them have to call this."""
        if self.world_size == 1:
            return [value]
        data = pickle.dumps(value)
        rows = self._gather_bytes(data)
        longest = max(_length(row) for row in rows)
        if longest > self._room:
            self._room = 2 ** longest.bit_length()  # alike on all, which have seen the same
            rows = self._gather_bytes(data)
        return [pickle.loads(row[HEADER : HEADER + _length(row)]) for row in rows]

    def _gather_bytes(self, data: bytes) -> list[bytes]:
        text = len(data).to_bytes(HEADER, "little") + data[: self._room]
        own = torch.frombuffer(bytearray(text.ljust(HEADER + self._room)), dtype=torch.uint8)
        own = own.to(self._device)
        rows = own.new_empty(self.world_size, len(own))
        dist.all_gather(list(rows), own)
        return [row.numpy().tobytes() for row in rows.cpu()]

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors what they are on the first process, at once; all processes call this."""
        if self.world_size == 1 or not tensors:
            return
        flat = [t.detach().to(self._device).contiguous().view(-1) for t in tensors]
        sent = torch.cat([each.view(torch.uint8) for each in flat])
        dist.broadcast(sent, 0)
        parts = torch.split(sent, [each.nbytes for each in flat]) if self.rank else ()
        with torch.no_grad():
            for tensor, each, part in zip(tensors, flat, parts, strict=False):
                each.view(torch.uint8).copy_(part)  # whose place in memory fits its dtype
                tensor.copy_(each.view(tensor.shape))

    def sum(self, own: list[Tensor], nodes: list[list[Node]], root: Node) -> Tensor:
        """The sum over all leaves, on all processes, which all have to call this.

        Args:
            own: Sums `(N,)` of this process's nodes, N a multiple of the world size; emptied. A
                process without a node gives a tensor of that size behind them, which is not read.
            nodes: Of each process those that it has whole, in rank order.
            root: The node of all leaves.
        """
        if self.world_size == 1:
            return own[0]
        like = own[0].new_empty(0)
        size = len(own[0]) // self.world_size
        slices: dict[Node, Tensor] = {}
        for turn in range(max(map(len, nodes))):
            senders = [rank for rank, names in enumerate(nodes) if turn < len(names)]
            received = like.new_empty(size * len(senders))
            is_sender = self.rank in senders
            _all_to_all(
                received,
                own.pop(0) if is_sender else like,
                [size * (rank in senders) for rank in range(self.world_size)],
                [size * is_sender] * self.world_size,
            )
            for rank, part in zip(senders, received.view(-1, size), strict=True):
                slices[nodes[rank][turn]] = part
        own.clear()
        total = tree_sum(root, slices.get, torch.Tensor.add_)
        whole = like.new_empty(self.world_size, size)
        dist.all_gather(list(whole.view(torch.uint8)), total.view(torch.uint8))
        return whole.view(-1)


def _all_to_all(received: Tensor, sent: Tensor, sizes: list[int], own_sizes: list[int]) -> None:
    """As bytes: not every backend has every dtype."""
    item = received.element_size()
    dist.all_to_all_single(
        received.view(torch.uint8),
        sent.view(torch.uint8),
        [size * item for size in sizes],
        [size * item for size in own_sizes],
    )


def _length(row: bytes) -> int:
    return int.from_bytes(row[:HEADER], "little")
