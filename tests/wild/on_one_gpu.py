"""Strategies that share one GPU between replicas or ranks, which only tests need."""

import torch
from typing_extensions import override

from lightning_app.strategies import DataParallelStrategy, DDPStrategy


class TwoReplicas(DataParallelStrategy):
    """`dp` with both replicas on one device, each in a thread of its own."""

    @property
    @override
    def parallel_devices(self) -> list[torch.device]:
        return super().parallel_devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        DataParallelStrategy.parallel_devices.__set__(self, [*devices, *devices])  # type: ignore[attr-defined]


class Ranks(DDPStrategy):
    """`ddp` whose ranks may have the same GPU, which NCCL refuses."""

    def __init__(self) -> None:
        super().__init__(process_group_backend="gloo")
