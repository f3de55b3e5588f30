"""Shows how each batch was split: sizes as they were in the model's calls on each rank.

What goes into and comes out of the model is noted in every training step. The notes stay on their
rank until a log step or the epoch's end; then they are gathered, and one process prints
them (the transcript) and logs `batch_size/global` and `batch_size/rank_k`.

Equal steps in a row are their first and their last point: some loggers send each to a server.
TensorBoard smooths its curves, and so would draw an epoch's smaller last batch of 10 as one of 22.
There, that batch is `batch_size/last`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app.modules import called_modules, say
from lightning_app.processes.collectives import gather_objects
from lightning_app.strategies.dp.strategy import DataParallelStrategy
from lightning_app.strategies.global_batch import GlobalBatch
from lightning_app.strategies.virtual import VirtualRanks
from lightning_app.telemetry.many_ranks import (
    MAX_EACH,
    curves,
    each_alone,
    in_words,
    runs_of_ranks,
)
from lightning_app.telemetry.metrics import Smooths, log
from lightning_app.telemetry.sizes import SizeRecorder, Sizes, by_rank, gather_runs

PREFIX = "batch_size/"
LogShapes = Literal["every", "change", "off"]
MAX_SPLITS = 12  # shown, of any kind
MAX_ALIKE = 3  # splits shown that differ only in other sizes than the numbers of samples


SizeRun = tuple[list[int], int]  # samples by rank, and how many steps in a row are like it


class ShapeLogger(Callback):
    """Prints and logs the sizes of every training batch, rank by rank.

    Which steps are printed is the model's `log_shapes` (`every`, `change`, `off`; without such an
    attribute `change`: a step whose split is seen for the first time; of splits that differ only in
    other sizes than the samples', as the lengths of texts do, a few, and then their number).

    Args:
        mode: What to print; `None`: what the model's `log_shapes` says.
    """

    def __init__(self, mode: LogShapes | None = None) -> None:
        self._mode = mode
        self._recorder: SizeRecorder | None = None
        self._seen: set[tuple[Sizes, ...]] = set()
        self._alike: Counter[tuple[int, ...]] = Counter()  # splits shown, by the ranks' samples
        self._num_shown_so_far = 0  # splits
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
        devices = gather_objects(str(strategy.root_device))
        if isinstance(strategy, DataParallelStrategy):
            devices = [str(device) for device in strategy.parallel_devices]
        elif isinstance(strategy, VirtualRanks):
            owners = zip(devices, strategy.ranges, strict=False)  # devices are the first rank's
            devices = [device for device, own in owners for _ in own]
        self._devices = devices

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._next_step = trainer.fit_loop.total_batch_idx + 1

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._recorder is not None
        self._recorder.end_step(_num_samples(trainer))
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self._recorder.num_steps >= every:
            self._report(trainer, pl_module)

    def on_step_end(self, trainer: Trainer, outputs: Any) -> None:
        """Called between the steps of one execution."""
        assert self._recorder is not None
        self._recorder.end_step(_num_samples(trainer))

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._recorder is not None and not trainer.sanity_checking:
            self._report(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module)
        if self._num_hidden:
            say(pl_module, f"\t… and {self._num_hidden} more with other sizes")
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
        self._leave(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        if self._recorder is not None:
            self._recorder.stop()
            if isinstance(trainer.strategy, DataParallelStrategy):
                trainer.strategy.listeners.remove(self._recorder.note_replica)
            self._recorder = None

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._recorder is not None
        gathered = gather_runs(self._recorder.take(), trainer.strategy.root_device)
        if not trainer.is_global_zero:
            return
        devices = self._devices
        are_numbered = isinstance(trainer.strategy, VirtualRanks)
        steps = list(by_rank(gathered, are_numbered))
        first_step = self._next_step
        self._next_step += sum(count for _, count in steps)
        if not any(sizes for sizes, _ in steps):
            return  # the model calls none of its modules
        logged: list[SizeRun] = []
        for sizes, count in steps:
            samples = [sizes[r].samples if r in sizes else 0 for r in range(len(devices))]
            logged.append((samples, count))
            for _ in range(self._num_shown(sizes, count, pl_module)):
                say(pl_module, "\n".join(_transcript(sizes, devices)))
        runs = [(_scalars(split), count) for split, count in logged]
        for logger in trainer.loggers:
            last_apart = isinstance(logger, Smooths) and trainer.is_last_batch
            for scalars, step in _points(first_step, runs, last_apart):
                log(trainer, scalars, step, [logger])
        for listener in self.listeners:
            listener(first_step, logged)

    def _num_shown(self, sizes: dict[int, Sizes], count: int, pl_module: LightningModule) -> int:
        """How many of some equal steps the console shows."""
        mode = self._mode or getattr(pl_module, "log_shapes", "change")
        split = tuple(sizes.values())
        if not split or mode == "off":
            return 0
        if mode == "every":
            return count
        if split in self._seen:
            return 0
        self._seen.add(split)
        samples = tuple(sizes.samples for sizes in split)
        self._alike[samples] += 1
        is_shown = self._alike[samples] <= MAX_ALIKE and self._num_shown_so_far < MAX_SPLITS
        self._num_shown_so_far += is_shown
        self._num_hidden += not is_shown
        return int(is_shown)


def _num_samples(trainer: Trainer) -> int | None:
    strategy = trainer.strategy
    if isinstance(strategy, GlobalBatch) and not isinstance(strategy, DataParallelStrategy):
        return strategy.num_samples
    return None  # of one replica, say


Scalars = dict[str, float]


def _scalars(split: list[int]) -> Scalars:
    """A step's sizes, by their tags."""
    return {f"{PREFIX}global": float(sum(split))} | curves(PREFIX.rstrip("/"), split)


def _points(
    step: int, runs: list[tuple[Scalars, int]], last_apart: bool
) -> Iterator[tuple[Scalars, int]]:
    """Where equal sizes begin and end; those of a last batch that differs may be apart."""
    *_, (last, count) = runs
    if last_apart and count == 1 and len(runs) > 1:
        runs = [*runs[:-1], ({f"{PREFIX}last": last[f"{PREFIX}global"]}, 1)]
    for scalars, count in runs:
        yield from ((scalars, place) for place in sorted({step, step + count - 1}))
        step += count


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
    given, made = next(iter(step.values())).over_all(step.values())
    yield f"Outside: input size {torch.Size(given)} output_size {torch.Size(made)}"
