"""`trainer.should_stop`: all ranks stop at the same step, whoever set it; none waits for ever."""

import warnings
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from lightning_app.checkpoint import stops
from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.stops import AgreedStop, Board
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from tests.ranks import run_ranks
from tests.runs import MemoryLogger, make_trainer
from tests.user_modules import Submodule

STEPS_AN_EPOCH = 10
HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
)


class Stops(Callback):
    """Sets `should_stop` in one hook, in the second epoch's seventh step, on some ranks."""

    def __init__(self, hook: str, ranks: tuple[int, ...], at: int) -> None:
        def stop(trainer: Trainer, *args: Any) -> None:
            if trainer.global_step >= at and trainer.global_rank in ranks:
                trainer.should_stop = True

        setattr(self, hook, stop)


def num_steps(
    strategy: str, devices: int, hook: str, ranks: tuple[int, ...], **flags: Any
) -> tuple[int, list[int]]:
    """Train and tell after how many steps it ended, and the steps that it logged a loss at."""
    torch.manual_seed(1)
    callbacks: list[Callback] = [AgreedStop(), LastCheckpoint()]
    at = flags.pop("at", 7)
    callbacks.append(flags.pop("callback", None) or Stops(hook, ranks, at))
    flags = {"max_epochs": 4, "log_every_n_steps": 4, "val_check_interval": 5} | flags
    flags |= {"enable_checkpointing": True, "callbacks": callbacks}
    logs = flags.pop("logs", True)
    model = Submodule() if logs else LinearModule(log_shapes="off")
    trainer = make_trainer(strategy, devices, fast_dev_run=False, **flags)
    trainer.save_checkpoint = lambda *args, **kwargs: None  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer.fit(model, RandomDataModule(length=40, batch_size=4, val_length=8))
    assert isinstance(trainer.logger, MemoryLogger)
    assert "update_train_step_metrics" not in vars(trainer._logger_connector)
    return trainer.global_step, list(trainer.logger.curves.get("loss_each_step", {}))


def in_ranks(cases: list[tuple[str, tuple[int, ...]]], world_size: int, flags: Any) -> list[Any]:
    return [num_steps("ddp", world_size, hook, ranks, **flags) for hook, ranks in cases]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_all_ranks_alike_stop_at_that_very_step(accumulated: int) -> None:
    flags = {"accumulate_grad_batches": accumulated}
    cases = [(hook, (0, 1)) for hook in HOOKS[1:]]
    alone = [num_steps("single_device", 1, hook, ranks, **flags) for hook, ranks in cases]
    assert len({steps for steps, _ in alone}) > 1
    for runs in run_ranks(in_ranks, 2, cases, 2, flags):
        assert runs == alone


def test_one_rank_stops_all_of_them() -> None:
    cases = [(hook, (1,)) for hook in HOOKS]
    flags = {"at": 0, "max_epochs": 3, "logs": False}
    results = run_ranks(in_ranks, 3, cases, 3, flags)
    assert results[0] == results[1] == results[2]
    for (hook, _), (steps, _) in zip(cases, results[0], strict=True):
        assert steps == STEPS_AN_EPOCH or hook != "on_train_epoch_end"
        assert 0 <= steps <= STEPS_AN_EPOCH, hook  # asked at the epoch's end at the latest


def test_a_validation_on_one_rank_alone_stops_at_that_step() -> None:
    cases = [("on_validation_end", (1,)), ("on_train_epoch_end", (0,))]
    alone = [num_steps("single_device", 1, hook, (0,)) for hook, _ in cases]
    for runs in run_ranks(in_ranks, 2, cases, 2, {}):
        assert runs == alone


def without_a_board() -> tuple[int, list[int]]:
    """As on Windows, where it could not be deleted."""
    with patch.multiple(stops, sys=SimpleNamespace(platform="win32"), Board=None):
        return num_steps("ddp", 2, "on_train_batch_end", (0, 1), at=0, max_epochs=3, logs=False)


def test_on_windows_all_stop_by_the_heartbeat() -> None:
    first, second = run_ranks(without_a_board, 2)
    assert first == second
    assert 0 < first[0] <= STEPS_AN_EPOCH


def early_stopping(strategy: str, devices: int) -> tuple[int, list[int]]:
    stopping = EarlyStopping("val_loss", patience=0, min_delta=1.0)
    return num_steps(strategy, devices, "", (), callback=stopping)


def test_early_stopping_is_as_on_one_device() -> None:
    alone = early_stopping("single_device", 1)
    assert alone[0] == STEPS_AN_EPOCH  # the second validation
    assert run_ranks(early_stopping, 2, "ddp", 2) == [alone, alone]


def wait_for_nobody() -> str:
    dist.init_process_group("gloo")
    board = Board(limit_s=0.2)
    if dist.get_rank() == 1:
        board.note(5, wish=True)
        with pytest.raises(TimeoutError) as caught:
            board.is_unanimous(5)
        return str(caught.value)
    board.note(4, wish=False)
    return ""


def test_a_rank_that_does_not_come_is_named() -> None:
    assert run_ranks(wait_for_nobody, 2)[1] == (
        "rank 1 set trainer.should_stop after batch 5, and waited 0.2 s for rank 0, which is at "
        "batch 4"
    )
