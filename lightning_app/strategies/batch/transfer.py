"""A batch's way to its device, without the hooks around it that nobody overrides."""

from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from typing_extensions import override

from lightning_app.hooks import has_hook

HOOKS = ("transfer_batch_to_device", "on_after_batch_transfer")


class DirectTransfer(Strategy):
    """Goes by Lightning's way, which costs more than a small batch's transfer, only if need be."""

    @override
    def batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        if self._hooks_are_idle():
            return _moved(batch, device or self.root_device)
        return super().batch_to_device(batch, device, dataloader_idx)

    def _hooks_are_idle(self) -> bool:
        module = self.lightning_module
        if module is None:
            return False
        data = module.trainer.datamodule  # type: ignore[attr-defined]
        owners = (module,) if data is None else (module, data)
        return not any(has_hook(owner, hook) for owner in owners for hook in HOOKS)


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch on a device: lists are new ones, also of what is there already."""
    if type(batch) is list:
        return [_moved(part, device) for part in batch]
    if type(batch) is tuple:
        return tuple([_moved(part, device) for part in batch])
    if isinstance(batch, Tensor) and batch.device == device:
        return batch
    return move_data_to_device(batch, device)
