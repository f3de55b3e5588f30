"""Models in which things go wrong, and one that waits to be disturbed."""

import time
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from typing_extensions import override

from lightning_app.model import Batch, LinearModule


class Nan(LinearModule):
    """Has a loss that is NaN on its last rank, from a step on."""

    def __init__(self, since: int = 40, **own: Any) -> None:
        super().__init__(**own)
        self.since = since

    @override
    def training_step(self, batch: Batch) -> Tensor:
        loss = super().training_step(batch)
        is_last = self.global_rank == self.trainer.world_size - 1
        spoilt = is_last and self.global_step + 1 >= self.since
        return loss * float("nan") if spoilt else loss


class Misconfigured(LinearModule):
    """Uses Lightning's exception for an error of its own, in a step."""

    @override
    def training_step(self, batch: Batch) -> Tensor:
        if self.global_step == 40:
            raise MisconfigurationException("a bug")
        return super().training_step(batch)


class Waits(LinearModule):
    """Leaves a file and waits a while in each step, of which the first can be a long one."""

    def __init__(self, first_s: float = 0.0, **own: Any) -> None:
        super().__init__(**own)
        self.wait_s = first_s

    def _wait(self) -> None:
        Path(f"in_step_{self.global_rank}").touch()
        time.sleep(self.wait_s)
        self.wait_s = 0.02

    @override
    def training_step(self, batch: Batch) -> Tensor:
        self._wait()
        return super().training_step(batch)

    @override
    def validation_step(self, batch: Batch) -> None:
        if not self.trainer.training:
            self._wait()
        super().validation_step(batch)

    @override
    def test_step(self, batch: Batch) -> None:
        self._wait()
        super().test_step(batch)

    @override
    def predict_step(self, batch: Batch) -> Any:
        self._wait()
        return super().predict_step(batch)
