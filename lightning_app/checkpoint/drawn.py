"""What loaders draw otherwise in a run that is continued, as no checkpoint has it."""

from collections import Counter
from collections.abc import Iterator

from lightning.pytorch import Trainer
from torch import Generator
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_app import inside
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.loaders.loader import ShardedLoader
from lightning_app.strategies.loaders.passes import needs_replay
from lightning_app.strategies.loaders.shards import Shards

_SHUFFLES = {RandomSampler, SubsetRandomSampler, WeightedRandomSampler}  # torch's, without a state


class DrawnOtherwise:
    """Tells of it, each line once."""

    def __init__(self) -> None:
        self._tell = TellOnce()

    def tell_of_validation(self, trainer: Trainer) -> None:
        """Tell of the loaders of a validation, which begins."""
        of_training = [
            g for own in _shards(inside.training_loaders(trainer)) for g in own.generators
        ]
        for own in _shards(inside.running_loaders(trainer)):
            name, sampler = type(own.dataset).__name__, own.sampler
            if any(generator in of_training for generator in own.generators):
                if _is_within_epochs(trainer):
                    self._tell(
                        f"continued: {name} is validated within an epoch, by a generator that "
                        "training draws from, too: the samples' order in the epochs to come is "
                        "another; give each loader a generator of its own"
                    )
            elif _has_generator(own):
                self._tell(
                    f"continued: the generator by which {name} is validated is in no checkpoint, "
                    "so its order begins anew"
                )
            elif needs_replay(sampler):
                users = sampler.sampler if type(sampler) is BatchSampler else sampler
                self._tell(
                    f"continued: the passes of {type(users).__name__} in validation are in no "
                    "checkpoint, so what it keeps of them begins anew"
                )


def drawn_anew(trainer: Trainer) -> Iterator[str]:
    """What loaders that are trained on draw otherwise, in words."""
    for loader in inside.training_loaders(trainer):
        if not isinstance(loader, ShardedLoader) and _is_shuffled(loader):
            yield (
                f"{type(loader).__name__} is left as it is, and shuffles by a generator that is in "
                "no checkpoint, so the orders of the first epochs come again: give it a sampler "
                "that keeps its state, if it has one"
            )
    loaders = _shards(inside.training_loaders(trainer))
    if any(n > 1 for n in Counter(id(g) for own in loaders for g in own.generators).values()):
        yield (
            "loaders that are trained on share a generator, so their order is another from here "
            "on, and within an epoch some samples come twice and others not at all: give each "
            "loader a generator of its own"
        )


def _is_within_epochs(trainer: Trainer) -> bool:
    """Whether there are other validations than at epochs' ends, after which all goes on alike."""
    every = trainer.val_check_batch or 0  # `None` if it goes by time
    return every < trainer.num_training_batches or not inside.has_all_batches(trainer)


def _is_shuffled(loader: object) -> bool:
    sampler, of_batches = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    return not _SHUFFLES.isdisjoint(map(type, (sampler, getattr(of_batches, "sampler", None))))


def _shards(loaders: list[object]) -> list[Shards]:
    return [loader.sharding for loader in loaders if isinstance(loader, ShardedLoader)]


def _has_generator(own: Shards) -> bool:
    """Whether the order of the samples is drawn from a generator of the user's."""
    parts = (own.sampler, getattr(own.sampler, "sampler", None))
    return any(isinstance(getattr(part, "generator", None), Generator) for part in parts)
