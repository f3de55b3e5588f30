"""What is put in a mechanism's place to break it, in the process that runs a case it guards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.cli.command_line import CommandLine
from lightning_app.strategies.batch import rows
from lightning_app.strategies.loaders import loader, passes
from lightning_app.telemetry.predictions import NotSaved
from lightning_app.telemetry.sizes import _first_shape

_begin, _view_of, _kind = passes.Pass.begin, loader.view_of, rows.Rows.kind
_instantiate = CommandLine.instantiate_trainer


def nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for what is left out."""


def yes(*args: Any, **kwargs: Any) -> bool:
    """Answers a question always so."""
    return True


def no(*args: Any, **kwargs: Any) -> bool:
    """Answers a question always so."""
    return False


def alone(value: Any) -> list[Any]:
    """Asks no other rank."""
    return [value]


def as_asked(batch: Any, num_asked: int) -> int:
    """Takes a batch for what the loader has asked for."""
    return num_asked


def by_dictionary(values: Any) -> Any:
    """Takes what a dataclass has from its `__dict__`."""
    return _first_shape(vars(values) if is_dataclass(values) else values)


@contextmanager
def as_it_comes(*args: Any) -> Iterator[None]:
    """Neither catches nor puts back anything."""
    yield


@contextmanager
def put_back_seen(model: Any) -> Iterator[None]:
    """Puts buffers back in sight of autograd."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in kept:
            buffer.copy_(value)


def draws_twice(self: Any) -> Any:
    """Goes through the user's sampler once more than is trained on."""
    list(self.shards.sampler)
    return _begin(self)


def where_training_is(self: Any, begun: Any) -> int:
    """A position that all passes share."""
    running = self.newest
    return running.position if running is not None and running.shard else 0


def with_a_sampler_of_its_own(shards: Any) -> Any:
    """A view that has a copy of the user's sampler."""
    view: Any = _view_of(shards)
    sampler: Any = object.__new__(type(view.sampler))
    vars(sampler).update(vars(view.sampler))
    if hasattr(sampler, "indices"):
        sampler.indices = list(sampler.indices)
    vars(view).update(sampler=sampler, batch_sampler=view.sharding)
    return view


def plain_view(shards: Any) -> Any:
    """A view without some of the loader's attributes."""
    view = _view_of(shards)
    vars(view)["drop_last"] = None
    vars(view).pop("label", None)
    return view


def asked_for_nothing(self: Any, shard: Any) -> Iterator[Any]:
    """A rank without samples asks for a batch of none."""
    if shard.size or not self.skips_idle:
        yield shard.indices


def looks_while_compiled(
    self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None
) -> Any:
    """Without a look at whether the user's own `torch.compile` traces."""
    self._gathers |= getattr(func, "__name__", "").startswith("all_gather")
    return func(*args, **(kwargs or {}))


def totals(parts: Any) -> tuple[float, float]:
    """Takes a batch size that was given for that of the rank's part."""
    return sum(p.total for p in parts), sum(p.weight for p in parts)


def totals_by_part(parts: Any) -> tuple[float, float]:
    """Takes a batch size that was given for that of the whole batch."""
    return sum(p.total_by_part for p in parts), sum(p.weight_by_part for p in parts)


def runs_the_model(self: Any, trainer: Any, pl_module: Any) -> None:
    """As a writer of graphs does."""
    pl_module.net(torch.zeros(2, 6, dtype=torch.float64))


def turns_to_training(self: Any, trainer: Any, pl_module: Any) -> None:
    """As whoever has run the model in between."""
    pl_module.train()


def by_length(self: Any, tensor: Any) -> Any:
    """Takes what is as long as the batch for rows of its samples."""
    return rows.ROWS if tensor.shape[:1] == (self.size,) else _kind(self, tensor)


def hooked(
    self: Any, module: Any, rank: int, replica: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Calls a replica, hooks and all, and not its forward alone."""
    return replica(*args, **kwargs)


def by_hooks(self: Any) -> None:
    """Listens by hooks on the modules."""
    for module, listener in zip(self.modules, self.listeners.values(), strict=True):
        module.register_forward_hook(lambda _, args, output, tell=listener: tell(args, {}, output))


def wishes_nothing(self: Any, trainer: Any) -> None:
    """Forgets that a rank wants to stop."""
    trainer.should_stop = False


def ten_epochs(self: Any, **kwargs: Any) -> Any:
    """Has our default win over what was asked for."""
    return _instantiate(self, **kwargs, max_epochs=10)


def not_saved(folder: str, loaders: Any, batches: Any) -> str:
    """Finds predictions that cannot be saved."""
    raise NotSaved("predictions not saved")


class SavesEarly(LastCheckpoint):
    """Saves before the model's own hooks of the batch."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Save, if it is time."""
        LastCheckpoint._after_step(self, trainer)

    def _after_step(self, trainer: Any) -> None: ...


class SavesInValidation(LastCheckpoint):
    """Saves while a callback may have other weights in the model."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save, if it is time."""
        if not trainer.sanity_checking and any(self._agree()):
            self._act(trainer)

    def _after_step(self, trainer: Any) -> None: ...
