"""Whether a checkpoint has states, and of the optimizers and schedulers that a run has."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_app.hooks import has_hook

TrainedBy = dict[str, list[str]]
_ADDED_LATER = ("differentiable",)  # by torch, to an optimizer's defaults
_OF_SWA = "SWALR"


def trained_by(trainer: Trainer) -> TrainedBy:
    """The classes of the optimizers and the schedulers."""
    schedulers = (config.scheduler for config in trainer.lr_scheduler_configs)
    return {
        "optimizers": [type(optimizer).__name__ for optimizer in trainer.optimizers],
        "lr_schedulers": [type(scheduler).__name__ for scheduler in schedulers],
    }


def kept_aside(trainer: Trainer) -> list[str]:
    """The model's attributes that are optimizers or schedulers, and in no checkpoint.

    Not of a model that puts something into checkpoints by itself, which may be these.
    """
    model = trainer.lightning_module
    clears_schedulers = any(isinstance(c, StochasticWeightAveraging) for c in trainer.callbacks)  # type: ignore[attr-defined]
    if has_hook(model, "on_save_checkpoint") or clears_schedulers:
        return []
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    parts = [part for whole in schedulers for part in getattr(whole, "_schedulers", ())]
    parts += [part for whole in trainer.optimizers for part in vars(whole).values()]
    saved = {id(owner) for owner in (*trainer.optimizers, *schedulers, *parts)}
    kinds = (Optimizer, LRScheduler)
    owned = vars(model).items()
    given = {name: getattr(own, "_optimizer", own) for name, own in owned}  # not a wrapper of it
    return [name for name, own in given.items() if isinstance(own, kinds) and id(own) not in saved]


def kept_within(trainer: Trainer) -> list[str]:
    """Optimizers within others whose `state_dict` leaves them out, as SAM's does.

    Not of a model that puts something into checkpoints by itself, which may be these.
    """
    if has_hook(trainer.lightning_module, "on_save_checkpoint"):
        return []
    return [
        f"{name} of {type(whole).__name__}"
        for whole in trainer.optimizers
        if type(whole).state_dict is Optimizer.state_dict
        and not whole._optimizer_state_dict_post_hooks
        for name, part in vars(whole).items()
        if isinstance(part, Optimizer) and part.state is not whole.state and _has_states(part)
    ]


def _has_states(optimizer: Optimizer) -> bool:
    return type(optimizer) is not SGD or any(g["momentum"] for g in optimizer.param_groups)


def check_optimizers(trainer: Trainer, saved: TrainedBy | None, saved_numbers: list[int]) -> None:
    """Refuse the states of other optimizers and schedulers, which torch takes for these.

    Args:
        trainer: Of the run, with the states loaded.
        saved: What trained the run that goes on; of another program's checkpoint it is not known.
        saved_numbers: How many states of optimizers and schedulers the checkpoint has.

    Raises:
        MisconfigurationException: They are others.
    """
    now = trained_by(trainer)
    lacks = (
        f"no {name} for {type(optimizer).__name__}"
        for optimizer in trainer.optimizers
        if not hasattr(type(optimizer), "param_groups")  # another's, as Lookahead gives them
        # A class of one's own may add to its defaults when it has its groups.
        and (saved is None or type(optimizer).__module__.startswith("torch."))
        for group in optimizer.param_groups
        for name in optimizer.defaults
        if name not in group and name not in _ADDED_LATER
    )
    numbers = [len(names) for names in now.values()]
    if saved is not None and not _are_alike(saved, now):
        why = f"it was trained by {_in_words(saved)}, and this run has {_in_words(now)}"
    elif missing := next(lacks, None):
        why = f"it has {missing}"
    elif saved is None and numbers != saved_numbers:
        why = "it has {} optimizers and {} schedulers, and this run has {} and {}".format(
            *saved_numbers, *numbers
        )
    else:
        return
    path = trainer.ckpt_path
    raise MisconfigurationException(
        f"--ckpt_path {path}: saved with another optimizer: {why}; use the "
        f"same, or, to use only its weights: --weights_from {path}"
    )


def _are_alike(saved: TrainedBy, now: TrainedBy) -> bool:
    """Whether states can be taken up; SWA puts a scheduler of its own in the place of others."""
    if any(_OF_SWA in names["lr_schedulers"] for names in (saved, now)):
        return saved["optimizers"] == now["optimizers"]
    return saved == now


def _in_words(names: TrainedBy) -> str:
    return " and ".join(", ".join(kinds) for kinds in names.values() if kinds) or "none"
