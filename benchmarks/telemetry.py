"""What it costs to watch the sizes and the samples: `python -m benchmarks.telemetry`.

A step's time with the callbacks of `train.py`, over that without `ShapeLogger`, without `Coverage`,
and without either: of a usual user's module and loader, and of our own, whose step is the shortest.
The fits take turns in one process, because the differences are smaller than those between two.
"""

import io
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import TypeAlias

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from typing_extensions import override

from benchmarks import timing
from benchmarks.timing import Ratio
from benchmarks.users_models import Usual, UsualData
from lightning_app import strategies
from lightning_app.cli.quiet import quieten
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.speed.direct_step import DirectStep
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.speed.profiler import NoProfiler
from lightning_app.telemetry.console import Console
from lightning_app.telemetry.coverage import Coverage
from lightning_app.telemetry.dashboard import RunLogger
from lightning_app.telemetry.loss import LossLogger
from lightning_app.telemetry.shapes import ShapeLogger

LEFT_OUT: dict[str, set[type[Callback]]] = {
    "both on": set(),
    "both off": {ShapeLogger, Coverage},
    "no ShapeLogger": {ShapeLogger},
    "no Coverage": {Coverage},
}
BATCH_SIZE = 30

Make: TypeAlias = Callable[[int], tuple[LightningModule, LightningDataModule]]  # of so many samples


class WholeEpochs(Callback):
    """Measures from an epoch's start to its end; given last, so that it ends after all others."""

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_s = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_s = time.perf_counter() - self._start_s


def usual(num_samples: int) -> tuple[LightningModule, LightningDataModule]:
    """What people bring."""
    return Usual(), UsualData(num_samples, BATCH_SIZE)


def own(num_samples: int) -> tuple[LightningModule, LightningDataModule]:
    """What this project has by itself."""
    return LinearModule(), RandomDataModule(length=num_samples, batch_size=BATCH_SIZE)


def us_per_step(make: Make, left_out: str, steps: int, steps_per_execution: int) -> float:
    """Microseconds per step in the second epoch of a fit in this process."""
    callbacks: list[Callback] = [DirectStep(), ShapeLogger(), LossLogger(), Coverage()]
    if steps_per_execution > 1:
        callbacks.insert(1, StepsPerExecution(steps_per_execution))
    callbacks = [c for c in callbacks if type(c) not in LEFT_OUT[left_out]]
    timer = WholeEpochs()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        trainer = Trainer(
            accelerator="cpu",
            strategy=strategies.SingleDeviceStrategy.strategy_name,
            devices=1,
            max_epochs=2,
            limit_val_batches=0,
            logger=RunLogger(folder),
            callbacks=[*callbacks, Console(), timer],
            profiler=NoProfiler(),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(*make(steps * BATCH_SIZE))
    return timer.epoch_s / steps * 1e6


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = timing.parser(__doc__, rounds=31)
    parser.add_argument("--steps", type=int, default=1000, help="in an epoch")
    args = parser.parse_args(argv)
    steps, rounds = (50, 1) if args.quick else (args.steps, args.rounds)

    torch.set_num_threads(1)
    strategies.register()
    quieten()
    warnings.filterwarnings("ignore")
    print(timing.machine())
    first, *others = LEFT_OUT
    done = []
    for title, make, group, bar in (
        ("the usual module", usual, 1, "<= 1.03"),
        ("the usual module, steps_per_execution 50", usual, 50, ""),
        ("our own", own, 1, ""),
        ("our own, steps_per_execution 50", own, 50, ""),
    ):
        us_per_step(make, first, steps, group)  # warms up
        variants = {name: partial(us_per_step, make, name, steps, group) for name in LEFT_OUT}
        ratios = [Ratio(first, name, bar if name == "both off" else "") for name in others]
        title = f"Telemetry, {title}"
        done.append(timing.compare(title, "µs per step", variants, rounds, ratios))
    timing.write(done, args.out, "telemetry")


if __name__ == "__main__":
    main()
