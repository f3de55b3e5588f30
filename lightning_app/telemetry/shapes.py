"""Shows how each batch was split: sizes as forward hooks saw them on each rank.

A hook notes what goes into and comes out of the model in every training step. The notes stay on
their rank until a log step or the epoch's end; then they are gathered, and one process prints
them (the transcript) and logs `batch_size/global` and `batch_size/rank_k` for every step.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from typing_extensions import override

from lightning_app.modules import called_modules
from lightning_app.processes.collectives import gather_objects
from lightning_app.strategies.dp import DataParallelStrategy
from lightning_app.telemetry.many_ranks import (
    MAX_EACH,
    curves,
    each_alone,
    in_words,
    runs_of_ranks,
)
from lightning_app.telemetry.sizes import SizeRecorder, Sizes, by_rank, gather_runs

MAX_ALIKE = 3  # splits shown that differ only in other sizes than the numbers of samples


@runtime_checkable
class LogsSteps(Protocol):
    """A logger that takes the same values for several steps at once."""

    def log_steps(self, metrics: Mapping[str, float], steps: range) -> None:
        """Log the values at each of the steps."""


SizeRun = tuple[list[int], int]  # samples by rank, and how many steps in a row are like it


class ShapeLogger(Callback):
    """Prints and logs the sizes of every training batch, rank by rank.

    Which steps are printed is the model's `log_shapes` (`every`, `change`, `off`; without such an
    attribute `change`: a step whose split is seen for the first time; of splits that differ only in
    other sizes than the samples', as the lengths of texts do, a few, and then their number).
    """

    def __init__(self) -> None:
        self._recorder: SizeRecorder | None = None
        self._seen: set[tuple[Sizes, ...]] = set()
        self._alike: Counter[tuple[int, ...]] = Counter()  # splits shown, by the ranks' samples
        self._num_hidden = 0  # splits of this epoch that were not shown
        self._next_step = 0
        self._devices: list[str] = []  # by rank; on the first rank
        # Told, on the first rank, what is logged: the first step, and the steps' sizes.
        self.listeners: list[Callable[[int, list[SizeRun]], None]] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        strategy = trainer.strategy
        replicas_only = isinstance(strategy, DataParallelStrategy)
        self._recorder = SizeRecorder(called_modules(pl_module), pl_module, replicas_only)
        if isinstance(strategy, DataParallelStrategy):
            strategy.listeners.append(self._recorder.note_replica)

        self._devices = gather_objects(str(strategy.root_device))
        if isinstance(strategy, DataParallelStrategy):
            self._devices = [str(device) for device in strategy.parallel_devices]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._next_step = trainer.fit_loop.total_batch_idx + 1

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._recorder is not None
        self._recorder.end_step()
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self._recorder.num_steps >= every:
            self._report(trainer, pl_module)

    def on_step_end(self) -> None:
        """Called between the steps of one execution."""
        assert self._recorder is not None
        self._recorder.end_step()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._recorder is not None and not trainer.sanity_checking:
            self._report(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module)
        if self._num_hidden:
            pl_module.print(f"\t… and {self._num_hidden} more with other sizes")
            self._num_hidden = 0

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Steps that a checkpoint has behind it are not run again: what is known of them goes out.
        if self._recorder is not None:
            self._report(trainer, pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._recorder is not None:
            self._recorder.remove()
            if isinstance(trainer.strategy, DataParallelStrategy):
                trainer.strategy.listeners.remove(self._recorder.note_replica)
            self._recorder = None

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._recorder is not None
        gathered = gather_runs(self._recorder.take(), trainer.strategy.root_device)
        if not trainer.is_global_zero:
            return
        devices = self._devices
        steps = list(by_rank(gathered))
        first_step = self._next_step
        self._next_step += sum(count for _, count in steps)
        if not any(sizes for sizes, _ in steps):
            return  # the model calls no module that is hooked
        logged: list[SizeRun] = []
        for sizes, count in steps:
            samples = [sizes[r].input[0] if r in sizes else 0 for r in range(len(devices))]
            logged.append((samples, count))
            for _ in range(self._num_shown(sizes, count, pl_module)):
                pl_module.print("\n".join(_transcript(sizes, devices)))
        for logger in trainer.loggers:
            _log_sizes(logger, first_step, logged)
        for listener in self.listeners:
            listener(first_step, logged)

    def _num_shown(self, sizes: dict[int, Sizes], count: int, pl_module: LightningModule) -> int:
        """How many of some equal steps the console shows."""
        mode, split = getattr(pl_module, "log_shapes", "change"), tuple(sizes.values())
        if not split or mode == "off":
            return 0
        if mode == "every":
            return count
        if split in self._seen:
            return 0
        self._seen.add(split)
        samples = tuple(sizes.input[0] for sizes in split)
        self._alike[samples] += 1
        is_shown = self._alike[samples] <= MAX_ALIKE
        self._num_hidden += not is_shown
        return int(is_shown)


def _log_sizes(logger: Logger, first_step: int, runs: list[SizeRun]) -> None:
    """Log each step's sizes; those of equal steps in a row at once, where the logger can."""
    stop = first_step
    for split, count in runs:
        start, stop = stop, stop + count
        scalars: dict[str, float] = {"batch_size/global": sum(split)}
        scalars |= curves("batch_size", split)
        if isinstance(logger, LogsSteps):
            logger.log_steps(scalars, range(start, stop))
        else:
            for step in range(start, stop):
                logger.log_metrics(scalars, step)


def _transcript(step: dict[int, Sizes], devices: list[str]) -> Iterator[str]:
    """The tutorial's lines for one step, each rank's and then the global one."""
    ranks = list(step)
    alike = [(sizes, devices[rank]) for rank, sizes in step.items()]
    runs = runs_of_ranks(alike) if len(step) > MAX_EACH else each_alone(alike)
    for places, (sizes, device) in runs:
        named = in_words(range(ranks[places[0]], ranks[places[-1]] + 1))
        yield (
            f"\tIn Model: input size {torch.Size(sizes.input)} "
            f"output size {torch.Size(sizes.output)}  ({named}, {device})"
        )
    given, made = next(iter(step.values()))
    num_in = sum(sizes.input[0] for sizes in step.values())
    num_out = sum(sizes.output[0] for sizes in step.values())
    yield (
        f"Outside: input size {torch.Size((num_in, *given[1:]))} "
        f"output_size {torch.Size((num_out, *made[1:]))}"
    )
