"""A batch's way to its device, without the hooks around it that nobody overrides."""

from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from typing_extensions import override

HOOKS = ("transfer_batch_to_device", "on_after_batch_transfer")


class DirectTransfer(Strategy):
    """Goes by Lightning's way, which costs more than a small batch's transfer, only if need be."""

    _hooks_are_idle = False

    @override
    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
        self._hooks_are_idle = not any(
            is_overridden(hook, owner) for owner in owners if owner is not None for hook in HOOKS
        )

    @override
    def batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        if self._hooks_are_idle:
            device = device or self.root_device
            return batch if _is_on(device, batch) else move_data_to_device(batch, device)
        return super().batch_to_device(batch, device, dataloader_idx)


def _is_on(device: torch.device, batch: Any) -> bool:
    """Whether a batch, or each of several, is tensors of a device; False where it takes a look."""
    if isinstance(batch, (tuple, list)):
        return all(_is_on(device, part) for part in batch)
    return isinstance(batch, Tensor) and batch.device == device
