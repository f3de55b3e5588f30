"""A run slow enough to be killed where one likes: it tells what it is doing in files."""

import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_app.checkpoint import io as checkpoint_io
from lightning_app.model import Batch, LinearModule

STEP_S = 0.008


class Slow(LinearModule):
    """Sleeps in every step, and leaves a file `validating` while it validates."""

    @override
    def training_step(self, batch: Batch) -> Tensor:
        time.sleep(STEP_S)
        return super().training_step(batch)

    @override
    def validation_step(self, batch: Batch) -> None:
        Path("validating").touch()
        time.sleep(STEP_S)
        super().validation_step(batch)

    @override
    def on_validation_end(self) -> None:
        Path("validating").unlink(missing_ok=True)


class SlowIO(checkpoint_io.AtomicCheckpointIO):
    """Leaves a file `writing` while a checkpoint is written, and takes its time over it."""

    @override
    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        replace = os.replace

        def slow_replace(source: Any, target: Any) -> None:
            Path("writing").touch()
            time.sleep(0.05)
            replace(source, target)
            Path("writing").unlink(missing_ok=True)

        os.replace = slow_replace  # type: ignore[assignment]
        try:
            super().save_checkpoint(checkpoint, path, storage_options)
        finally:
            os.replace = replace
