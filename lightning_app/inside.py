"""What this project has to know of Lightning from within: names that are not its public API.

Tests compare runs with those of a plain `Trainer`; they fail if one of these names changes.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.distributed import _init_dist_connection
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import (
    _MultiProcessingLauncher,
    _SubprocessScriptLauncher,
)
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultMetric,
    _Sync,
)

from lightning_app.loops import follow, give_back


def training_iterators(trainer: Trainer) -> list[Any]:
    """The iterators that the training loop takes its batches from, one for each loader."""
    return _iterators(trainer.fit_loop)


def running_iterators(trainer: Trainer) -> list[Any]:
    """Those of the loop that runs now: training, validation, test or prediction."""
    return _iterators(trainer._active_loop)


def _iterators(loop: Any) -> list[Any]:
    try:
        iterators: list[Any] = loop._data_fetcher._combined_loader._iterator.iterators
    except AttributeError:  # there is no loop, or it has not begun
        return []
    return iterators


def takes_loaders_in_turn(trainer: Trainer) -> bool:
    """Whether the running evaluation goes through its loaders one after the other."""
    # Lightning knows no loop, and raises, where an evaluation is set up without being run.
    loop = trainer._active_loop if trainer.state.fn is not None else None
    combined = getattr(loop, "_combined_loader", None)
    return combined is None or combined._mode == "sequential"


def limit_of(trainer: Trainer, shards: object) -> int | None:
    """How many batches the running loop takes of the loader with these shards; `None`: all."""
    combined = getattr(trainer._active_loop, "_combined_loader", None)
    for loader, limit in zip(
        getattr(combined, "flattened", ()), getattr(combined, "limits", None) or (), strict=False
    ):
        if vars(loader).get("sharding") is shards and limit != float("inf"):
            return int(limit)
    return None


def num_prefetched(trainer: Trainer) -> int:
    """Batches that training has fetched ahead, to know which one is the last."""
    return len(getattr(trainer.fit_loop._data_fetcher, "batches", ()))


def results(trainer: Trainer) -> Any:
    """What has been logged in the running loop by `self.log`, by key; `None` outside of one."""
    return trainer._results


def training_results(trainer: Trainer) -> Any:
    """What has been logged in the training loop by `self.log`, by key."""
    return trainer.fit_loop.epoch_loop._results


def value_of_step(result: Any) -> Any:
    """What a step has logged last under a key; `None` if it is not kept per step."""
    return result._forward_cache


def set_value_of_step(result: Any, value: Any) -> None:
    """Make something what the last step has logged."""
    result._forward_cache = value


def renew(result: Any) -> None:
    """Have an entry's mean computed anew when it is asked for, as if it had been logged here."""
    result._computed = None
    result._update_count = max(result._update_count, 1)


def is_first_batch(trainer: Trainer) -> bool:
    """Whether the running loop is at its first batch, where what was logged before is dropped."""
    return bool(trainer._logger_connector._first_loop_iter)


def is_log_step(trainer: Trainer) -> bool:
    """Whether what this training step logs goes to the loggers, the same on all ranks.

    Lightning's own answer goes by `trainer.should_stop`, too, which one rank may have set alone.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    step = trainer.fit_loop.epoch_loop._batches_that_stepped + 1
    return bool(trainer.fast_dev_run or (every and step % every == 0))  # type: ignore[attr-defined]


def optimizer_steps(trainer: Trainer) -> bool:
    """Whether the optimizer steps after the running batch; else its gradients are accumulated."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def count_batch(trainer: Trainer) -> None:
    """Count the running batch, as Lightning does at its end, and as fetched the next."""
    if optimizer_steps(trainer):
        trainer.fit_loop.epoch_loop._batches_that_stepped += 1
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    fetcher.fetched += 1


def skips_backward(trainer: Trainer) -> bool:
    """Whether something has asked for steps without a backward pass, as SWA does."""
    return bool(trainer.fit_loop.epoch_loop.automatic_optimization._skip_backward)


def set_hook(module: LightningModule, name: str | None) -> None:
    """Note which hook of the model runs, for its `self.log`."""
    vars(module)["_current_fx_name"] = name  # not by `nn.Module`, which looks at much else


def running_hook(module: LightningModule) -> str | None:
    """Which hook of the model runs."""
    return module._current_fx_name


def remember_signature(trainer: Trainer) -> None:
    """Look up once what `training_step` takes, and not in every step as Lightning does."""
    loop = trainer.fit_loop.epoch_loop
    takes_index = "batch_idx" in loop._build_kwargs(OrderedDict(), None, 0)

    def build(kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
        kwargs["batch"] = batch
        if takes_index:
            kwargs["batch_idx"] = batch_idx
        return kwargs

    loop._build_kwargs = build  # type: ignore[method-assign]


def forget_signature(trainer: Trainer) -> None:
    """Undo `remember_signature`."""
    give_back(trainer.fit_loop.epoch_loop, "_build_kwargs")


def validates_by_time(trainer: Trainer) -> bool:
    """Whether `val_check_interval` is a time."""
    return trainer._val_check_time_interval is not None  # type: ignore[attr-defined]


def predict_loader(trainer: Trainer, index: int) -> Any:
    """One of the loaders that are predicted."""
    combined: Any = trainer.predict_loop._combined_loader
    return combined.flattened[index]


def before_epoch_values(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called, on all ranks, before an epoch's logged values are computed.

    In training this is at each epoch's end, before the hooks; in evaluation at the end of each
    loader and at the end of them all.
    """
    follow(trainer._logger_connector, "epoch_end_reached", act)


def after_epoch_hooks(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called, on all ranks, after the hooks at the end of an epoch's batches."""
    follow(trainer._logger_connector, "on_epoch_end", act)


def leave_epochs(trainer: Trainer) -> None:
    """Undo `before_epoch_values` and `after_epoch_hooks`."""
    give_back(trainer._logger_connector, "epoch_end_reached", "on_epoch_end")


def notes_indices(batch_sampler: object) -> bool:
    """Whether this is Lightning's wrapper, which notes the indices of what is predicted."""
    return isinstance(batch_sampler, _IndexBatchSamplerWrapper)


def loaders_done(trainer: Trainer) -> int:
    """How many of its loaders the running evaluation has gone through, between two batches."""
    loop: Any = trainer._active_loop
    combined, fetcher = loop._combined_loader, loop._data_fetcher
    if combined._mode != "sequential":
        return 1
    has_next_batch = fetcher.fetched > loop.batch_progress.current.ready
    done: int = combined._iterator._iterator_idx if has_next_batch else len(combined.flattened)
    return done


def logged_as(metric: Any) -> tuple[Any, ...]:
    """How something was logged, in a form that can be sent to other ranks."""
    meta = metric.meta
    return (
        meta.fx,
        meta.name,
        meta.prog_bar,
        meta.logger,
        meta.on_step,
        meta.on_epoch,
        meta.reduce_fx.__name__,
        meta.enable_graph,
        meta.add_dataloader_idx,
        meta.dataloader_idx,
        meta.metric_attribute,
    )


def add_result(trainer: Trainer, key: str, how: tuple[Any, ...], is_tensor: bool) -> Any:
    """An entry for something that other ranks have logged, and this one has not."""
    meta = _Metadata(*how)
    meta.sync = _Sync(_should=False, fn=trainer.strategy.reduce)
    collection: Any = results(trainer)
    collection[key] = metric = _ResultMetric(meta, is_tensor).to(trainer.strategy.root_device)
    return metric


def put_values_of(trainer: Trainer, dataloader_idx: int) -> None:
    """Make a loader's values the Trainer's metrics, on a rank that had nothing of the loader."""
    collection: Any = results(trainer)
    present, collection.dataloader_idx = collection.dataloader_idx, dataloader_idx
    trainer._logger_connector.update_eval_epoch_metrics()
    collection.dataloader_idx = present


def has_usual_checkpoint_io(trainer: Trainer) -> bool:
    """Whether checkpoints are written as Lightning does it where nobody chooses a way."""
    strategy = trainer.strategy
    return strategy._checkpoint_io is None and type(strategy.checkpoint_io) is TorchCheckpointIO


def replace_launcher(trainer: Trainer, launcher: type[_SubprocessScriptLauncher]) -> None:
    """Have a Trainer that starts its ranks by the command line start them by a class of ours."""
    strategy = trainer.strategy
    usual = getattr(strategy, "_launcher", None)
    if type(usual) is _SubprocessScriptLauncher:
        strategy._launcher = launcher(
            usual.cluster_environment, usual.num_processes, usual.num_nodes
        )


def leave_sigterm_alone(trainer: Trainer) -> None:
    """Keep Lightning from acting on a SIGTERM.

    It would send it to the other ranks, and a message to them from within the handler, for which
    they may not wait; and it goes on where a test or a prediction shall end.
    """
    trainer._signal_connector._sigterm_notifier_fn = _do_nothing  # type: ignore


def is_lightnings_handler(handler: Any, trainer: Trainer) -> bool:
    """Whether a signal's handler is one that Lightning has put in place for this Trainer."""
    own = getattr(handler, "__self__", None) is trainer._signal_connector
    return own or handler is _do_nothing


def _do_nothing(signum: int, frame: object) -> None:
    pass


def connect(strategy: DDPStrategy, store: Any) -> None:
    """Make the process group of a strategy, of the processes that have met in a store."""
    device = strategy.root_device
    _init_dist_connection(
        strategy.cluster_environment,  # type: ignore[arg-type]
        strategy._get_process_group_backend(),
        timeout=strategy._timeout,
        device_id=None if device.type == "cpu" else device,
        store=dist.PrefixStore("default_pg", store),  # type: ignore[attr-defined]
    )


def replace_spawning_launcher(trainer: Trainer, launcher: type[_MultiProcessingLauncher]) -> None:
    """Have a Trainer whose ranks are copies of its process start them by a class of ours."""
    strategy = trainer.strategy
    usual = getattr(strategy, "_launcher", None)
    if type(usual) is _MultiProcessingLauncher:
        strategy._launcher = launcher(usual._strategy, usual._start_method)
