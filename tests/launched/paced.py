"""A model whose steps take a while, and on one rank for ever where a test asks for it."""

import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_app.model import Batch, LinearModule


class Paced(LinearModule):
    """Sleeps in every step; the rank that `HANGS` names goes on sleeping once a file is there.

    Appends the number of each step to the file `STEPS`, and where it starts to `STARTS`.
    """

    @override
    def training_step(self, batch: Batch) -> Tensor:
        time.sleep(float(os.environ.get("PACE_S", "0.02")))
        if "STEPS" in os.environ and self.global_rank == 0:
            with open(os.environ["STEPS"], "a") as file:
                file.write(f"{self.global_step}\n")
        if os.environ.get("HANGS") == str(self.global_rank):
            while Path(os.environ["HANG_FILE"]).exists():
                time.sleep(0.1)
        if os.environ.get("FAILS") == str(self.global_rank) and self.global_step == 20:
            raise ValueError("sample 17 has no label")
        return super().training_step(batch)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        with open(os.environ["STARTS"], "a") as file:
            file.write(f"{self.trainer.world_size} {checkpoint['global_step']}\n")
