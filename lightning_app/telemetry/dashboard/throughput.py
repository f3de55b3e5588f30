"""How fast a run is: samples per second, time spent waiting for data, use of the GPUs.

TensorBoard sorts tags by name: `workload/…` comes after the losses and metrics.
"""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app.strategies.loaders.loader import ShardedLoader
from lightning_app.telemetry.metrics import log
from lightning_app.telemetry.shapes import ShapeLogger, SizeRun


class Throughput(Callback):
    """Logs the speed whenever the sizes of steps are logged; times are those of the first rank.

    Args:
        shapes: Tells how many samples went through.
    """

    def __init__(self, shapes: ShapeLogger) -> None:
        self._shapes = shapes
        self._trainer: Trainer | None = None
        self._since_s = self._waited_s = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        if self._log not in self._shapes.listeners:
            self._shapes.listeners.append(self._log)
        self._start(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    def _start(self, trainer: Trainer) -> None:
        """Begin to measure; a validation, or what is between epochs, does not count."""
        self._since_s = time.perf_counter()
        self._waited_s = _waited_s(trainer) or 0.0

    def _log(self, first_step: int, runs: list[SizeRun]) -> None:
        trainer = self._trainer
        assert trainer is not None
        if not runs:  # what is left of an epoch, after its validation
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)  # what is queued is not yet done
        elapsed_s = time.perf_counter() - self._since_s
        num_samples = sum(sum(sizes) * count for sizes, count in runs)
        metrics = {"workload/samples_per_s": num_samples / elapsed_s}
        if (waited_s := _waited_s(trainer)) is not None:
            metrics["workload/data_wait_share"] = (waited_s - self._waited_s) / elapsed_s
        for device in getattr(trainer.strategy, "parallel_devices", None) or []:
            metrics |= device_use(device)
        log(trainer, metrics, first_step + sum(count for _, count in runs) - 1)
        self._start(trainer)


def _waited_s(trainer: Trainer) -> float | None:
    """Seconds that the run has waited for batches; `None` where its loader does not tell."""
    loader: Any = trainer.train_dataloader
    return loader.sharding.waited_s if isinstance(loader, ShardedLoader) else None


def device_use(device: torch.device) -> dict[str, float]:
    """What NVML says of a GPU, whoever uses it: memory in MiB, utilization in percent.

    Nothing where it says nothing, as of a part of a GPU (MIG) or in some containers.
    """
    if device.type != "cuda":
        return {}
    try:
        memory_bytes = torch.cuda.device_memory_used(device)
        percent = torch.cuda.utilization(device)
    except Exception:  # of the library that is asked, which differs
        return {}
    return {
        f"workload/gpu_{device.index}_memory_mib": memory_bytes / 2**20,
        f"workload/gpu_{device.index}_utilization_percent": float(percent),
    }
