"""What a rank's loss counts, such that the mean of the ranks' gradients is the global batch's."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_app.strategies.batch.sharding import Shard, shard_sizes

MEAN_OVER = "loss_is_mean_over"  # a method that a LightningModule may have


class LossWeight:
    """The weight of a rank's last training step; while another kind of step runs, its own.

    Args:
        rank: This rank.
        world_size: How many ranks there are.
        sum_over_ranks: Makes of a CPU tensor `(N,)`, float64, its sum over all ranks.
    """

    def __init__(
        self, rank: int, world_size: int, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> None:
        self._rank, self._world_size, self._sum = rank, world_size, sum_over_ranks
        self.value = 1.0
        self._silenced: list[RemovableHandle] = []

    def set(self, hook: str, shard: Shard, size: int, mean_over: float | None) -> None:
        """Make it that of a step.

        Args:
            hook: The step's name; in training, and where each has a sample, all ranks have to
                call this.
            shard: What the step is given.
            size: How many samples the batch turned out to have.
            mean_over: What the model's means are over in this shard; `None`: its samples.

        Raises:
            MisconfigurationException: If the batch has fewer samples than the loader asked for.
        """
        if mean_over is None and size < shard.size:
            raise MisconfigurationException(
                f"rank {self._rank}: the batch has {size} of the {shard.size} samples asked for, "
                "so the weight of its loss is not known: leave samples out in the data set, not in "
                f"collate_fn, or give the number by a method `{MEAN_OVER}(batch)` of the model"
            )
        self.value = shard.loss_weight(self._world_size)
        can_ask = hook == "training_step" or shard.global_size >= self._world_size  # all ranks
        if mean_over is not None and can_ask:
            own = mean_over if shard.size else 0.0
            total = float(self._sum(torch.tensor([own], dtype=torch.float64)))
            if total:  # else the loss is NaN, or what the model makes of nothing, as on one device
                self.value = own * self._world_size / total

    def weigh_loss(self, loss: Tensor, model: LightningModule) -> Tensor:
        """The loss to call `backward` of, whose gradients the ranks average.

        Args:
            loss: A rank's mean, a scalar.
            model: What it is a loss of.
        """
        if not self.value:
            # Not a product with 0 alone: of a mean over nothing, which is NaN, that is NaN, too.
            for parameter in model.parameters():
                if parameter.requires_grad:  # another optimizer's do not, for now
                    handle = parameter.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
                    self._silenced.append(handle)
        return loss if self.value == 1.0 else loss * self.value

    def weigh(self, value: Tensor) -> Tensor:
        """A rank's mean, such that the ranks' mean of it is that over the global batch."""
        # A mean over no samples is NaN, which no weight takes out of a sum.
        return value * self.value if self.value else torch.zeros_like(value)

    def stop_silence(self) -> None:
        """Let gradients through again, after a step that weighed nothing."""
        for handle in self._silenced:
            handle.remove()
        self._silenced = []


def mean_over(model: Any, batch: Any) -> float | None:
    """What a model says that its loss of a batch is a mean over; `None` if it does not."""
    tell = getattr(model, MEAN_OVER, None)
    return None if tell is None else float(tell(batch))


def of_other_loaders() -> MisconfigurationException:
    """The refusal of a batch that was not split."""
    return MisconfigurationException(
        "a hook has put loaders in the place of the Trainer's, whose batches are split, and theirs "
        "are not: return them from `train_dataloader`"
    )


def common_shard(shards: list[Shard], world_size: int) -> Shard:
    """The shard that weighs a step's loss, where several loaders may have given it a batch.

    Raises:
        MisconfigurationException: If the ranks' parts of the batches are not alike, or there are
            none, as the batches were not split.
    """
    if not shards:
        raise of_other_loaders()
    first, *others = shards
    for other in others:
        # Of all ranks, so that all of them refuse the same step.
        parts = [shard_sizes(shard.global_size, world_size) for shard in (first, other)]
        if any(a * other.global_size != b * first.global_size for a, b in zip(*parts, strict=True)):
            sizes = " and ".join(" + ".join(map(str, part)) for part in parts)
            raise MisconfigurationException(
                f"this step's loaders gave the ranks different parts of their batches ({sizes}), "
                "so the loss has no single weight: use batch sizes and lengths that divide alike"
            )
    return first
