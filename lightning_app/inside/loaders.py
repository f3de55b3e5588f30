"""Where the loops take their batches from."""

from collections.abc import Iterable
from typing import Any

from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper


def training_iterators(trainer: Trainer) -> list[Any]:
    """The iterators that the training loop takes its batches from, one for each loader."""
    return _iterators(trainer.fit_loop)


def training_loaders(trainer: Trainer) -> list[Any]:
    """The loaders that are trained on, one or several at once."""
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else combined.flattened


def has_training_loaders(trainer: Trainer) -> bool:
    """Whether loaders to train on have been made in this run; a later epoch may have new ones."""
    return trainer.fit_loop._last_train_dl_reload_epoch > float("-inf")


def set_up_validation(trainer: Trainer) -> None:
    """Have training's validation loaders made now, to see that they can be split.

    As Lightning does where the first epoch ends with a validation. Not where there will be none, or
    loaders are made anew.
    """
    if not trainer.enable_validation or trainer.val_dataloaders is not None:
        return
    are_made_anew: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    is_never = 0 <= (trainer.max_epochs or -1) < (trainer.check_val_every_n_epoch or 1)
    if is_never or are_made_anew:
        return
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    finally:
        trainer.training = True


def running_loaders(trainer: Trainer) -> list[Any]:
    """The loaders of the loop that runs now: training, validation, test or prediction."""
    combined = getattr(trainer._active_loop, "_combined_loader", None)
    return [] if combined is None else combined.flattened


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


def takes_one_loader(trainer: Trainer) -> bool:
    """Whether each batch of the running loop, which has its loaders, is that of one of them."""
    combined: Any = trainer._active_loop._combined_loader  # type: ignore[union-attr]
    return bool(combined._mode == "sequential" or combined.flattened == [combined.iterables])


def sharding_of(loader: object) -> Any:
    """The shards that a loader of this project's is a view of; `None` of any other, or iterable."""
    return getattr(loader, "__dict__", {}).get("sharding")


def limit_of(trainer: Trainer, shards: object) -> int | None:
    """How many batches the running loop takes of the loader with these shards; `None`: all."""
    combined = getattr(trainer._active_loop, "_combined_loader", None)
    for loader, limit in zip(
        getattr(combined, "flattened", ()), getattr(combined, "limits", None) or (), strict=False
    ):
        if sharding_of(loader) is shards and limit != float("inf"):
            return int(limit)
    return None


def number_of(trainer: Trainer, shards: object) -> int:
    """The place of the loader with these shards among those of its loop, from 0."""
    for loop in (trainer._active_loop, trainer.fit_loop):
        combined = getattr(loop, "_combined_loader", None)
        for number, loader in enumerate(getattr(combined, "flattened", ())):
            if sharding_of(loader) is shards:
                return number
    return 0


def num_prefetched(trainer: Trainer) -> int:
    """Batches that training has fetched ahead, to know which one is the last."""
    return len(getattr(trainer.fit_loop._data_fetcher, "batches", ()))


def notes_indices(batch_sampler: object) -> bool:
    """Whether this is Lightning's wrapper, which notes the indices of what is predicted."""
    return isinstance(batch_sampler, _IndexBatchSamplerWrapper)


def note_indices(wrapper: Any, *batches: Iterable[Any], is_new: bool = False) -> None:
    """Have such a wrapper tell the indices of batches that are predicted next, or of no others."""
    if is_new:
        wrapper.seen_batch_indices = []
    wrapper.seen_batch_indices += map(list, batches)


def loaders_done(trainer: Trainer) -> int:
    """How many of its loaders the running evaluation has gone through, between two batches."""
    loop: Any = trainer._active_loop
    combined, fetcher = loop._combined_loader, loop._data_fetcher
    if combined._mode != "sequential":
        return 1
    has_next_batch = fetcher.fetched > loop.batch_progress.current.ready
    done: int = combined._iterator._iterator_idx if has_next_batch else len(combined.flattened)
    return done


def predict_loader(trainer: Trainer, index: int) -> Any:
    """One of the loaders that are predicted."""
    combined: Any = trainer.predict_loop._combined_loader
    return combined.flattened[index]


def tell_epoch(loader: object, epoch: int) -> None:
    """Tell a loader's samplers their epoch, as Lightning does where an epoch begins."""
    _set_sampler_epoch(loader, epoch)
