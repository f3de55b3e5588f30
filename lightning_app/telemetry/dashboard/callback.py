"""Writes what is no curve: the charts' layout, the run card, hyperparameters, graph, pictures."""

import os
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter
from typing_extensions import override

from lightning_app.masking import masked
from lightning_app.processes.collectives import gather_objects
from lightning_app.strategies.dp import DataParallelStrategy
from lightning_app.telemetry.dashboard.card import cpu_name, run_card, splits_table
from lightning_app.telemetry.dashboard.charts import charts
from lightning_app.telemetry.dashboard.graph import GraphRecorder, Node, graph_event
from lightning_app.telemetry.dashboard.logger import RunLogger
from lightning_app.telemetry.dashboard.pictures import who_got_what
from lightning_app.telemetry.describe import describe_layout, num_ranks, run_name
from lightning_app.telemetry.shapes import ShapeLogger, SizeRun

NUM_PICTURES = 3  # of the first epochs
MAX_STEPS = 1000  # in a picture


class Dashboard(Callback):
    """Lays out a run's TensorBoard page.

    Args:
        shapes: Tells how batches were split.
    """

    def __init__(self, shapes: ShapeLogger) -> None:
        self._shapes = shapes
        self._splits: dict[tuple[int, ...], tuple[int, int, int]] = {}
        self._epoch_sizes: list[list[int]] = []
        self._epoch_start = 0  # the step of the first of them
        self._graph: GraphRecorder | None = None
        self._described = False

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Not `state_dict`, which is asked for before the last steps' sizes are told.
        checkpoint["splits"] = list(self._splits.items())

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._splits = dict(checkpoint.get("splits", []))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        devices = gather_objects(device_names(trainer))
        writer = _writer(trainer)
        if writer is None:
            return
        if self._note not in self._shapes.listeners:
            self._shapes.listeners.append(self._note)
        writer.add_custom_scalars(charts(num_ranks(trainer)))
        seed = os.environ.get("PL_GLOBAL_SEED")
        card = run_card(
            describe_layout(trainer),
            [name for names in devices for name in names],
            None if seed is None else int(seed),
        )
        writer.add_text("run", card, trainer.global_step)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0 and _writer(trainer) is not None:
            # Late: what is copied of the model before has no hooks of it.
            self._graph = GraphRecorder(pl_module)

    def _end_graph(self) -> dict[str, Node]:
        """Take its hooks off; what it has noted."""
        recorder, self._graph = self._graph, None
        if recorder is None:
            return {}
        recorder.remove()
        return recorder.nodes

    def _note(self, first_step: int, runs: list[SizeRun]) -> None:
        if not self._epoch_sizes:
            self._epoch_start = first_step
        step = first_step
        for sizes, count in runs:
            first, _, number = self._splits.get(tuple(sizes), (step, step, 0))
            step += count
            self._splits[tuple(sizes)] = (first, step - 1, number + count)
            self._epoch_sizes += [sizes] * min(count, MAX_STEPS - len(self._epoch_sizes))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writer = _writer(trainer)
        if writer is None:
            return
        step = trainer.global_step - 1
        sizes, self._epoch_sizes = self._epoch_sizes, []
        if sizes and trainer.current_epoch < NUM_PICTURES:
            picture = who_got_what(np.array(sizes), self._epoch_start)
            writer.add_image("who_got_what", picture, step, dataformats="HWC")
        if not self._described:
            self._described = True
            self._describe(trainer, pl_module, writer)
        if nodes := self._end_graph():
            event = graph_event(type(pl_module).__name__, nodes)
            writer._get_file_writer().add_event(event)  # type: ignore[no-untyped-call]

    def _describe(
        self, trainer: Trainer, pl_module: LightningModule, writer: SummaryWriter
    ) -> None:
        """Enter the run in the table of hyperparameters; its metrics are those of the curves."""
        simple = {
            name: value
            for name, value in masked(dict(pl_module.hparams)).items()
            if isinstance(value, (int, float, str)) and not name.startswith("_")
        }
        strategy = trainer.strategy
        params = simple | {
            "layout": run_name(trainer),
            "strategy": getattr(strategy, "strategy_name", type(strategy).__name__),
            "ranks": num_ranks(trainer),
            "global_batch": sum(max(self._splits, key=sum, default=())),
        }
        metrics = {k: 0.0 for k in trainer.callback_metrics if k.startswith(("train/", "val/"))}
        session = f"{os.path.basename(trainer.logger.log_dir or '')} {run_name(trainer)}"  # type: ignore[union-attr]
        for summary in hparams(params, metrics):  # type: ignore[no-untyped-call]
            data = HParamsPluginData.FromString(summary.value[0].metadata.plugin_data.content)
            if data.HasField("session_start_info"):
                data.session_start_info.group_name = session  # what the table calls the run
                content = data.SerializeToString()
                summary.value[0].metadata.plugin_data.content = content
            writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        self._end_graph()
        writer = _writer(trainer) if self._splits else None  # asking for it makes a file
        if writer is not None:
            writer.add_text("splits", splits_table(self._splits), trainer.global_step)


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


def _writer(trainer: Trainer) -> SummaryWriter | None:
    """Where to write, on the rank that does."""
    logger = trainer.logger
    if isinstance(logger, RunLogger) and trainer.is_global_zero:
        writer: SummaryWriter = logger.experiment
        return writer
    return None
