"""How a Trainer starts its ranks, and what it does about signals and files."""

import atexit
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.fabric.utilities.distributed import _destroy_dist_connection, _init_dist_connection
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import (
    _MultiProcessingLauncher,
    _SubprocessScriptLauncher,
)
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import _set_pg_timeout

from lightning_app.inside.loops import give_back, put

MultiProcessingLauncher = _MultiProcessingLauncher
SubprocessLauncher = _SubprocessScriptLauncher
is_local_file = _is_local_file_protocol


def has_usual_checkpoint_io(trainer: Trainer) -> bool:
    """Whether checkpoints are written as Lightning does it where nobody chooses a way."""
    strategy = trainer.strategy
    return strategy._checkpoint_io is None and type(strategy.checkpoint_io) is TorchCheckpointIO


def replace_launcher(
    trainer: Trainer,
    script: type[_SubprocessScriptLauncher],
    spawning: type[_MultiProcessingLauncher],
) -> None:
    """Have a Trainer that starts its ranks as Lightning does start them by a class of ours.

    Args:
        trainer: Of the run.
        script: Starts the program again for each.
        spawning: Starts copies of this process, or processes that are given what it has.
    """
    strategy = trainer.strategy
    usual = getattr(strategy, "_launcher", None)
    if type(usual) is _SubprocessScriptLauncher:
        strategy._launcher = script(usual.cluster_environment, usual.num_processes, usual.num_nodes)
    if type(usual) is _MultiProcessingLauncher:
        strategy._launcher = spawning(usual._strategy, usual._start_method)


def leave_sigterm_alone(trainer: Trainer) -> None:
    """Keep Lightning from acting on a SIGTERM.

    It would send it to the other ranks, and a message to them from within the handler, for which
    they may not wait; and it goes on where a test or a prediction shall end.
    """
    trainer._signal_connector._sigterm_notifier_fn = _do_nothing  # type: ignore


def leave_samplers_alone(trainer: Trainer) -> None:
    """Keep Lightning from putting its `DistributedSampler` into the loaders of several ranks."""
    trainer._accelerator_connector.use_distributed_sampler = False


def broadcast_no_signal(trainer: Trainer) -> None:
    """Keep Lightning from sending what it has heard to all ranks, in every step."""
    put(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", lambda: None)


def broadcast_signals_again(trainer: Trainer) -> None:
    """End what `broadcast_no_signal` has begun."""
    give_back(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor")


def is_lightnings_handler(handler: Any, trainer: Trainer) -> bool:
    """Whether a signal's handler is one that Lightning has put in place for this Trainer."""
    own = getattr(handler, "__self__", None) is trainer._signal_connector
    return own or handler is _do_nothing


def _do_nothing(signum: int, frame: object) -> None:
    pass


def connect(strategy: DDPStrategy, store: Any, limit_s: float) -> None:
    """Make the process group of a strategy, of the processes that have met in a store.

    Args:
        strategy: Of this process.
        store: That they share.
        limit_s: Seconds in which they connect; what follows has the strategy's own limit.
    """
    device = strategy.root_device
    _init_dist_connection(
        strategy.cluster_environment,  # type: ignore[arg-type]
        strategy._get_process_group_backend(),
        timeout=timedelta(seconds=limit_s),
        device_id=None if device.type == "cpu" else device,
        store=dist.PrefixStore("default_pg", store),  # type: ignore[attr-defined]
    )
    _set_pg_timeout(strategy._timeout or default_pg_timeout)


def keep_process_group_at_exit() -> None:
    """Leave the process group alone as this process ends; Lightning would wait for others there."""
    atexit.unregister(_destroy_dist_connection)
