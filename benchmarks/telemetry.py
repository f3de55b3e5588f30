"""What it costs to watch the sizes and the samples: `python -m benchmarks.telemetry`.

A step's time with the callbacks of `train.py`, over that without `ShapeLogger` (and with
`log_shapes: off`), and over that without `Coverage`. The fits take turns in one process, because
the differences are smaller than those between two processes.
"""

import io
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from benchmarks import timing
from benchmarks.timing import Ratio
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

ALL, NO_SHAPES, NO_COVERAGE = "both on", "no ShapeLogger", "no Coverage"
BATCH_SIZE = 30


class WholeEpochs(Callback):
    """Measures from an epoch's start to its end; given last, so that it ends after all others."""

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_s = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_s = time.perf_counter() - self._start_s


def us_per_step(left_out: str, steps: int, steps_per_execution: int) -> float:
    """Microseconds per step in the second epoch of a fit in this process."""
    callbacks: list[Callback] = [DirectStep()]
    if steps_per_execution > 1:
        callbacks.append(StepsPerExecution(steps_per_execution))
    if left_out != NO_SHAPES:
        callbacks.append(ShapeLogger())
    callbacks.append(LossLogger())
    if left_out != NO_COVERAGE:
        callbacks.append(Coverage())
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
        model = LinearModule(log_shapes="off" if left_out == NO_SHAPES else "change")
        trainer.fit(model, RandomDataModule(length=steps * BATCH_SIZE, batch_size=BATCH_SIZE))
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
    ratios = [Ratio(ALL, NO_SHAPES, "<= 1.03"), Ratio(ALL, NO_COVERAGE, "<= 1.03")]
    done = []
    for group in (1, 50):
        us_per_step(ALL, steps, group)  # warms up
        variants = {
            name: partial(us_per_step, name, steps, group) for name in (ALL, NO_SHAPES, NO_COVERAGE)
        }
        title = f"Telemetry, steps_per_execution {group}"
        told = ratios if group == 1 else [Ratio(r.over, r.under) for r in ratios]
        done.append(timing.compare(title, "µs per step", variants, rounds, told))
    timing.write(done, args.out, "telemetry")


if __name__ == "__main__":
    main()
