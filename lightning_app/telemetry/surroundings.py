"""What a run's bits depend on beside its flags, noted in checkpoints: told where it has changed.

Virtual ranks give the same bits on any number of devices, if these are alike and so are the
libraries.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from lightning_app.own_part import own_part
from lightning_app.strategies.virtual import VirtualRanks
from lightning_app.telemetry.dashboard.callback import device_names

KEY = "virtual_ranks"


class Surroundings(Callback):
    """Tells, where a run with virtual ranks goes on, what keeps it from having the same bits."""

    def __init__(self) -> None:
        self._saved: dict[str, str] | None = None
        self._is_continued = False

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if (present := surroundings(trainer)) is not None:
            own_part(checkpoint)[KEY] = present

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._saved = own_part(checkpoint).get(KEY)
        self._is_continued = trainer.state.fn == "fit"

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_continued, self._is_continued = self._is_continued, False
        if is_continued:
            for line in changes(self._saved or {}, surroundings(trainer) or {}):
                rank_zero_only(print)(f"continued: {line}", file=sys.stderr)


def changes(saved: dict[str, str], present: dict[str, str]) -> Iterator[str]:
    """What keeps a run from going on with the same bits, in words."""
    if bool(saved) != bool(present):
        names = ["--virtual_ranks"]  # all else matters with it only
    else:
        names = [name for name in present if saved.get(name) != present[name]]
    for name in names:
        was, now = saved.get(name, "not set"), present.get(name, "not set")
        yield f"{name} was {was} and is {now}, so the numbers differ in their last bits, or more"


def surroundings(trainer: Trainer) -> dict[str, str] | None:
    """What the bits depend on, by name; `None` without virtual ranks."""
    strategy = trainer.strategy
    if not isinstance(strategy, VirtualRanks):
        return None
    return {
        "--virtual_ranks": str(strategy.virtual_ranks),
        "the device": device_names(trainer)[0],
        "torch": str(torch.__version__),
        "NumPy": np.__version__,
        "the CPU's kernels": torch.backends.cpu.get_cpu_capability(),
    }
