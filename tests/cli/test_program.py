"""How a program leaves the ranks that it has trained with."""

import atexit
import os
import signal
import warnings
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.utilities.distributed import _destroy_dist_connection
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.connectors.logger_connector import result
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _ResultCollection,
    warning_cache,
)

from lightning_app.cli import spawning
from lightning_app.cli.beginning import Beginning
from lightning_app.errors import RunError, UsageError
from lightning_app.processes import signals
from lightning_app.processes.signals import Stopped
from lightning_app.strategies import DDPStrategy

program = import_module("lightning_app.cli.program")  # `cli` has a function of that name


@pytest.mark.parametrize(
    ("end", "is_alone"),
    [
        (None, False),
        (UsageError("wrong"), True),
        (RunError("failed"), True),
        (KeyError("a bug"), True),
        (Stopped(signal.SIGTERM), True),
        (Stopped(signal.SIGTERM, agreed=True), False),
    ],
)
def test_others_may_wait_for_a_rank_that_ends_by_itself(
    end: BaseException | None, is_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(subcommand: str, arguments: list[str]) -> None:
        if end is not None:
            raise end

    left: list[bool] = []
    monkeypatch.setattr(program, "CommandLine", run)
    monkeypatch.setattr(program, "_leave_process_group", left.append)
    with suppress(SystemExit, KeyError, Stopped):
        program._run([], os.getppid())
    assert left == [is_alone]


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_rank_alone_does_not_wait_by_nccl(
    is_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("destroyed"))
    monkeypatch.setattr(atexit, "unregister", calls.append)
    program._leave_process_group(is_alone)
    # Else Lightning destroys it as the process ends.
    assert calls == ([_destroy_dist_connection] if is_alone else ["destroyed"])


@pytest.mark.parametrize(("system", "passed_on"), [("posix", [(7, signal.SIGINT)]), ("nt", [])])
def test_no_signal_is_passed_on_where_it_would_be_a_kill(
    system: str, passed_on: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    fake = SimpleNamespace(name=system, kill=lambda *args: sent.append(args))
    monkeypatch.setattr(spawning, "os", fake)
    monkeypatch.setattr(signals, "may_wait", lambda may, trains: None)
    launcher: Any = object.__new__(spawning.SpawningLauncher)
    rank = SimpleNamespace(is_alive=lambda: True, pid=7, join=lambda: None, exitcode=0)
    launcher.procs = [rank]
    launcher._stop(signal.SIGINT)
    assert sent == passed_on


@pytest.mark.parametrize(("strategy", "is_told"), [(DDPStrategy(), False), (FSDPStrategy(), True)])
def test_advice_to_sync_is_left_out_where_ranks_are_compared(strategy: Any, is_told: bool) -> None:
    results = _ResultCollection(training=False)
    results.log("on_validation_epoch_end", "iou", torch.ones(()), on_step=False, on_epoch=True)
    trainer: Any = SimpleNamespace(strategy=strategy)
    warning_cache.clear()  # each comes once
    with warnings.catch_warnings(record=True) as told, pytest.MonkeyPatch().context() as patch:
        warnings.simplefilter("always")
        Beginning().setup(trainer, LightningModule(), "fit")
        patch.setattr(result, "_distributed_is_initialized", lambda: True)
        assert results.metrics(on_step=False)["callback"] == {"iou": 1}
    assert len(told) == is_told


@pytest.mark.parametrize("is_automatic", [True, False])
def test_advice_to_log_more_often_holds_where_no_loss_is_logged(is_automatic: bool) -> None:
    trainer: Any = SimpleNamespace(strategy=DDPStrategy())
    model = LightningModule()
    model.automatic_optimization = is_automatic
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Beginning().setup(trainer, model, "fit")
        warnings.warn("16 batches is smaller than the logging interval 50", stacklevel=1)
    assert len(told) == (not is_automatic)
