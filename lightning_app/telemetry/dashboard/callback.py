"""Writes what is not a curve: the charts' layout, run card, hyperparameters, graph, pictures.

`entries` is imported where something is written: it takes long, and most ranks write nothing.
"""

import os
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_app import inside
from lightning_app.masking import masked
from lightning_app.own_part import own_part
from lightning_app.processes.collectives import gather_objects
from lightning_app.strategies.dp.strategy import DataParallelStrategy
from lightning_app.telemetry.dashboard.card import (
    coverage_line,
    cpu_name,
    run_card,
    splits_table,
)
from lightning_app.telemetry.dashboard.charts import FIRST, charts
from lightning_app.telemetry.dashboard.graph import GraphRecorder, Node
from lightning_app.telemetry.dashboard.logger import RunLogger
from lightning_app.telemetry.describe import describe_layout, run_name
from lightning_app.telemetry.metrics import EpochValues, is_of_coverage
from lightning_app.telemetry.shapes import ShapeLogger, SizeRun

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

MAX_FIRST = 6
COVERAGE = ("missing", "repeated")
LOSSES = ("train/loss", "train/loss_step")
RATES = ("workload/samples_per_s", "workload/data_wait_share")
NO_GRAPH = (
    "No graph: the first training step called no module. A graph is drawn for models "
    "that call their modules in `training_step` and are not compiled."
)


class Dashboard(Callback):
    """Lays out a run's TensorBoard page.

    Args:
        shapes: Tells how batches were split.
    """

    def __init__(self, shapes: ShapeLogger) -> None:
        self._shapes = shapes
        self._splits: dict[tuple[int, ...], tuple[int, int, int]] = {}
        self._coverage = [0, 0, 0]  # epochs, samples that they missed, that they visited again
        self._tags: set[str] = set()  # that the charts' layout was made for
        self._graph: GraphRecorder | None = None
        self._described = False
        self._values = EpochValues()
        self._last_step = -1  # at the end of the last epoch

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Not `state_dict`, which is asked for before the last steps' sizes are told.
        own_part(checkpoint).update(
            splits=list(self._splits.items()), coverage=list(self._coverage)
        )

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        own = own_part(checkpoint)
        self._splits = dict(own.get("splits", []))
        self._coverage = list(own.get("coverage", self._coverage))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        devices = gather_objects(device_names(trainer))
        writer = _writer(trainer)
        if writer is None:
            return
        inside.after_epoch_hooks(trainer, lambda: self._end_epoch(trainer, pl_module))
        from lightning_app.telemetry.dashboard.entries import add_text

        if self._note not in self._shapes.listeners:
            self._shapes.listeners.append(self._note)
        self._tags = set()
        self._lay_out(trainer, writer, {*LOSSES, *RATES})
        seed = os.environ.get("PL_GLOBAL_SEED")
        card = run_card(
            describe_layout(trainer),
            [name for names in devices for name in names],
            None if seed is None else int(seed),
        )
        add_text(writer, "run", card, trainer.global_step)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if inside.step_number(trainer) == 1 and _writer(trainer) is not None:
            self._graph = GraphRecorder(pl_module)

    def _end_graph(self) -> dict[str, Node]:
        """End its notes, which are given."""
        recorder, self._graph = self._graph, None
        if recorder is None:
            return {}
        recorder.stop()
        return recorder.nodes

    def _note(self, first_step: int, runs: list[SizeRun]) -> None:
        step = first_step
        for sizes, count in runs:
            first, _, number = self._splits.get(tuple(sizes), (step, step, 0))
            step += count
            self._splits[tuple(sizes)] = (first, step - 1, number + count)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._values.validated(trainer)

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once the model has logged the last of an epoch."""
        writer = _writer(trainer)
        if writer is None or not trainer.training:
            return
        from lightning_app.telemetry.dashboard.entries import add_graph, add_text

        self._log_first(trainer)
        self._lay_out(trainer, writer, trainer.logger.tags)  # type: ignore[union-attr]
        counts = [trainer.callback_metrics.get(f"coverage/{name}") for name in COVERAGE]
        if None not in counts:
            new = (1, *map(int, counts))  # type: ignore[arg-type]
            self._coverage = [total + n for total, n in zip(self._coverage, new, strict=True)]
        if not self._described:
            self._described = True
            self._draw(trainer, writer)
            self._describe(trainer, pl_module, writer)
        if self._graph is not None:
            nodes = self._end_graph()
            if nodes:
                add_graph(writer, nodes)
            else:
                add_text(writer, "graph", NO_GRAPH, trainer.global_step)

    def _log_first(self, trainer: Trainer) -> None:
        """Log the epoch's values once more, as tags that come first on the page and in its table.

        Both are sorted by name: the sizes of batches would come before the losses.
        """
        found = self._values.at_end(trainer).items()
        values = {name: value for name, value in found if not is_of_coverage(name)}
        step = inside.last_step(trainer)
        if step == self._last_step:
            return  # an epoch of no steps
        self._last_step = step
        first = {FIRST + name: value for name, value in list(values.items())[:MAX_FIRST]}
        trainer.logger.log_metrics(first, step)  # type: ignore[union-attr]

    def _lay_out(self, trainer: Trainer, writer: "SummaryWriter", tags: set[str]) -> None:
        """Lay out the charts of what is logged, and of what is new since."""
        if not tags <= self._tags:
            self._tags |= tags
            writer.add_custom_scalars(charts(self._tags))

    def _draw(self, trainer: Trainer, writer: "SummaryWriter") -> None:
        from lightning_app.telemetry.dashboard.entries import add_picture

        if self._splits:
            splits = {split: n for split, (*_, n) in self._splits.items()}
            add_picture(writer, splits, inside.last_step(trainer))

    def _describe(
        self, trainer: Trainer, pl_module: LightningModule, writer: "SummaryWriter"
    ) -> None:
        """Enter the run in the table of hyperparameters."""
        from lightning_app.telemetry.dashboard.entries import add_run

        simple = {
            str(name): value
            for name, value in masked(dict(pl_module.hparams)).items()
            if isinstance(value, (int, float, str)) and not str(name).startswith("_")
        }
        if "configure_optimizers" in vars(pl_module):  # --optimizer, in place of the model's own
            for optimizer in trainer.optimizers[:1]:
                simple |= in_effect(optimizer)
        params = simple | {
            "layout": run_name(trainer),
            "global_batch": sum(max(self._splits, key=sum, default=())),
        }
        name = f"{os.path.basename(trainer.logger.log_dir or '')} {run_name(trainer)}"  # type: ignore[union-attr]
        add_run(writer, name, params)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._end(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        inside.leave_epoch_hooks(trainer)

    def _end(self, trainer: Trainer) -> None:
        self._end_graph()
        writer = _writer(trainer) if self._splits else None  # asking for it makes a file
        if writer is None:
            return
        from lightning_app.telemetry.dashboard.entries import add_text

        splits = f"{splits_table(self._splits)}\n\n{coverage_line(*self._coverage)}"
        add_text(writer, "splits", splits, trainer.global_step)
        self._draw(trainer, writer)


def in_effect(optimizer: Optimizer) -> dict[str, str | float]:
    """What an optimizer is, and the learning rate that it began with, if it has one."""
    found: dict[str, str | float] = {"optimizer": type(optimizer).__name__}
    for group in optimizer.param_groups[:1]:
        lr = group.get("initial_lr", group.get("lr"))
        if isinstance(lr, (int, float, Tensor)):
            found["lr"] = float(lr)
    return found


def device_names(trainer: Trainer) -> list[str]:
    """The names of this process's devices, in the order of its ranks."""
    strategy = trainer.strategy
    devices = [strategy.root_device]
    if isinstance(strategy, DataParallelStrategy):
        devices = strategy.parallel_devices
    return [
        torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
        for device in devices
    ]


def _writer(trainer: Trainer) -> "SummaryWriter | None":
    """Where to write, on the rank that does."""
    logger = trainer.logger
    if isinstance(logger, RunLogger) and trainer.is_global_zero:
        writer: SummaryWriter = logger.experiment
        return writer
    return None
