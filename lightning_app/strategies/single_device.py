"""One device: Lightning's own strategy, with the order and the resuming of the others."""

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import SingleDeviceStrategy as LightningSingleDeviceStrategy

from lightning_app.strategies.global_batch import GlobalBatch


class SingleDeviceStrategy(GlobalBatch, LightningSingleDeviceStrategy):
    """Trains in one process on one device; every batch is one shard."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._devices: list[torch.device] = []

    @property
    def parallel_devices(self) -> list[torch.device]:
        """The device, in a list; empty until the Trainer has chosen it."""
        return self._devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        if len(devices) != 1:
            raise MisconfigurationException(
                f"--strategy single_device runs on one device, not on {len(devices)}: "
                "use `--devices 1`, or `--strategy ddp`"
            )
        self._devices = list(devices)
        self._root_device = devices[0]
