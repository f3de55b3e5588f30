"""How fast a run is: samples per second, time spent waiting for data, use of the GPUs."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app.shapes import ShapeLogger


class Throughput(Callback):
    """Logs the speed whenever the sizes of steps are logged; times are those of the first rank.

    Args:
        shapes: Tells how many samples went through.
    """

    def __init__(self, shapes: ShapeLogger) -> None:
        self._shapes = shapes
        self._since_s = self._batch_ended_s = 0.0
        self._waited_s = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shapes.listeners.append(lambda step, sizes: self._log(trainer, step, sizes))

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start()

    def _start(self) -> None:
        """Begin to measure; a validation, or what is between epochs, does not count."""
        self._since_s = self._batch_ended_s = time.perf_counter()
        self._waited_s = 0.0

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waited_s += time.perf_counter() - self._batch_ended_s

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batch_ended_s = time.perf_counter()

    def _log(self, trainer: Trainer, first_step: int, sizes: list[list[int]]) -> None:
        elapsed_s = self._batch_ended_s - self._since_s
        if elapsed_s <= 0 or not sizes:  # what is left of an epoch, after its validation
            return
        by_rank = [sum(column) / elapsed_s for column in zip(*sizes, strict=True)]
        metrics = {"throughput/samples_per_s": sum(by_rank)}
        metrics |= {f"throughput/rank_{rank}": rate for rank, rate in enumerate(by_rank)}
        metrics["throughput/data_wait_share"] = min(self._waited_s / elapsed_s, 1.0)
        for device in getattr(trainer.strategy, "parallel_devices", None) or []:
            metrics |= device_use(device)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=first_step + len(sizes) - 1)
        self._start()


def device_use(device: torch.device) -> dict[str, float]:
    """What NVML says of a GPU, whoever uses it: memory in MiB, utilization in percent."""
    if device.type != "cuda":
        return {}
    return {
        f"device/memory_mib/gpu_{device.index}": torch.cuda.device_memory_used(device) / 2**20,
        f"device/utilization_percent/gpu_{device.index}": float(torch.cuda.utilization(device)),
    }
