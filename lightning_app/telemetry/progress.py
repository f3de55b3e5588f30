"""The progress bar: epochs from 1, what the run has come to, and how long it still takes."""

import time
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text
from typing_extensions import override

from lightning_app import inside
from lightning_app.telemetry.metrics import latest

BAR_WIDTH = 10  # characters
SPEED_WIDTH = len(" 12345.67it/s")
RUN_WIDTH = len(" run 100%, 0:00:00 left")
WIDE = 100  # a terminal that has room for all


def epoch_of(trainer: Trainer) -> str:
    """The running epoch, from 1 on, and the last one, if there is one."""
    epoch, last = trainer.current_epoch + 1, trainer.max_epochs
    return f"epoch {min(epoch, last)}/{last}" if last is not None and last > 0 else f"epoch {epoch}"


class RunProgress(RichProgressBar):
    """Lightning's bar, for the whole run.

    It shows what the model logs with `prog_bar=True`, and the losses and metrics of log steps and
    epochs, that are those of the global batch.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=20)
        self._began_s, self._began_at = time.monotonic(), 0  # at so many batches
        self._shown: dict[str, str] = {}  # what there is to show

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar, which is not drawn meanwhile.

        Rich finds out how many rows to clear under a lock, and writes after it: drawn by its thread
        in between, the bar would clear the line.
        """
        live = None if self.progress is None else self.progress.live
        with getattr(live, "_lock", nullcontext()):
            super().print(*args, **kwargs)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._began_s, self._began_at = time.monotonic(), inside.num_batches_learnt(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = trainer.fit_loop.batch_idx  # an execution of several begins at `batch_idx`
        super().on_train_batch_end(trainer, pl_module, outputs, batch, last)

    @override
    def configure_columns(self, trainer: Trainer) -> list[Any]:
        _, bar, batches, _, speed = super().configure_columns(trainer)
        bar.bar_width = BAR_WIDTH
        speeds = [speed] * self._is_wide
        return [_Column(self.what), bar, batches, *speeds, _Column(self.whole_run)]

    @property
    def _is_wide(self) -> bool:
        return self._console is not None and self._console.width >= WIDE

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = inside.step_number(trainer)
        if trainer.sanity_checking:
            return {}
        is_log_step = every and (step == 1 or step % every == 0)
        if is_log_step or not trainer.training or trainer.is_last_batch:
            self._shown = {name: f"{value:.4g}" for name, value in latest(trainer).items()}
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        width = self._room(trainer) - sum(len(f"{name}: 0.000 ") for name in shown)
        for name, value in self._shown.items():
            width -= len(f"{name}: {value} ")
            if not name.startswith("coverage/") and (width >= 0 or not shown):
                shown.setdefault(name, value)
        return shown

    def _room(self, trainer: Trainer) -> int:
        """How many characters metrics have, each with a space before it."""
        if self.progress is None:
            return 0
        what = max(len(epoch_of(trainer)), len("validation"))
        numbers = (trainer.num_training_batches, *trainer.num_val_batches)
        batches = 2 * max(len(f" {number}") for number in numbers)
        beside = what + len(" ") + BAR_WIDTH + batches + SPEED_WIDTH * self._is_wide + RUN_WIDTH
        return self.progress.console.width - beside

    def what(self, task: Task) -> str:
        """Which loop it is that a bar shows."""
        return epoch_of(self.trainer) if _is_of_training(task) else task.description.lower()

    def whole_run(self, task: Task) -> str:
        """How much of the run is done, and how long the rest takes, if that is known."""
        if not _is_of_training(task):
            return ""
        elapsed_s = time.monotonic() - self._began_s
        done, total = inside.num_batches_learnt(self.trainer), num_batches_in_all(self.trainer)
        if total is None or done <= self._began_at:
            return f"run {_time(elapsed_s)}"
        left_s = elapsed_s / (done - self._began_at) * max(total - done, 0)
        return f"run {min(done / total, 1):.0%}, {_time(left_s)} left"


class _Column(ProgressColumn):
    """A text that is made anew whenever the bar is drawn."""

    def __init__(self, make: Any) -> None:
        super().__init__(Column(no_wrap=True))
        self._make = make

    @override
    def render(self, task: Task) -> Text:
        return Text(self._make(task))


def _is_of_training(task: Task) -> bool:
    return task.description.startswith("Epoch")  # as Lightning's bar calls it


def num_batches_in_all(trainer: Trainer) -> float | None:
    """The batches that it will have trained on at its end; `None` if that is not known."""
    limits: list[float] = []
    if trainer.max_steps > 0:
        limits.append(trainer.max_steps * trainer.accumulate_grad_batches)
    if (trainer.max_epochs or 0) > 0:
        limits.append(trainer.max_epochs * trainer.num_training_batches)  # type: ignore[operator]
    least = min(limits, default=float("inf"))
    return None if least == float("inf") else least


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")
