"""One device: Lightning's own strategy, with the order and the resuming of the others."""

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.strategies import SingleDeviceStrategy as LightningSingleDeviceStrategy
from typing_extensions import override

from lightning_app.strategies.loader import shard_loader
from lightning_app.strategies.transfer import DirectTransfer


class SingleDeviceStrategy(DirectTransfer, LightningSingleDeviceStrategy):
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

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        # Before it, the weights are still float32, and the checkpoint's would be rounded.
        return isinstance(self.precision_plugin, DoublePrecision)

    @override
    def process_dataloader(self, dataloader: object) -> object:
        return shard_loader(dataloader, rank=0, world_size=1)
