"""A loss that is NaN or infinite: training stops, and says since which step, on which rank.

No step reads its loss, as it would have to wait for the GPU. Where the loss over all
ranks is read anyway, at log steps, at an epoch's end and where a checkpoint is made, all ranks see
the same value, and so stop together; the losses of the steps before it, kept until then, tell where
it began.
"""

import sys
from collections import deque
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_app.checkpoint.heartbeat import largest_of_all
from lightning_app.errors import RunError
from lightning_app.processes.collectives import gather_objects

Choice = Literal["stop", "warn", "ignore"]
MOST_KEPT = 1000  # losses; of a GPU each takes 512 bytes
NUM_OF_SCALER = 20  # steps in a row that a gradient scaler may skip while it looks for its scale
HOW_TO_GO_ON = "to train on: --on_nonfinite_loss warn | ignore"


class NonFiniteLoss(RunError):
    """The loss or the weights are not finite, so nothing more is learnt."""

    status = 3


class FiniteLoss:
    """Follows the losses of training.

    Args:
        choice: What to do once one is not finite.
    """

    def __init__(self, choice: Choice = "stop") -> None:
        self.choice = choice
        self._losses: deque[tuple[int, Tensor]] = deque(maxlen=MOST_KEPT)  # since the last look
        self._has_warned = False

    def note(self, trainer: Trainer, step: int, loss: Tensor) -> None:
        """Keep the loss of a step, unless this rank had no sample in it."""
        if self.choice != "ignore" and not getattr(trainer.strategy, "is_idle", False):
            self._losses.append((step, loss.detach() if loss.requires_grad else loss))

    def check(self, trainer: Trainer, loss: Tensor | None) -> None:
        """Stop or warn if a loss over all ranks is not finite; all ranks have to call this.

        Raises:
            NonFiniteLoss: It is not.
        """
        losses, self._losses = list(self._losses), deque(maxlen=MOST_KEPT)
        if loss is None or self.choice == "ignore" or loss.isfinite():
            return
        bad = [(step, float(loss)) for step, loss in losses if not loss.isfinite()]
        if _has_scaler(trainer):
            # It leaves out such steps, and goes on with a smaller scale.
            self._losses.extend(losses)
            is_stuck = len(bad) == len(losses) >= NUM_OF_SCALER
            if not largest_of_all([int(is_stuck)], trainer.strategy.root_device)[0]:
                return
        line = _where_it_began(trainer, gather_objects(bad[:1]))
        if self.choice == "stop":
            raise NonFiniteLoss(f"{line}: stopped; {last_good(trainer)}; {HOW_TO_GO_ON}")
        if not self._has_warned and trainer.is_global_zero:
            self._has_warned = True
            print(
                f"{line}; training goes on, as --on_nonfinite_loss warn asks for", file=sys.stderr
            )


def _where_it_began(trainer: Trainer, of_ranks: list[list[tuple[int, float]]]) -> str:
    """The earliest step whose loss was not finite, on the first rank, which knows of all."""
    found = [(*first, rank) for rank, own in enumerate(of_ranks) for first in own]
    if not found:
        return f"the loss of step {trainer.global_step} is not finite"
    step, value, rank = min(found, key=lambda entry: entry[0])
    return f"the loss of step {step} is {value}" + f" on rank {rank}" * (trainer.world_size > 1)


def _has_scaler(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def last_good(trainer: Trainer) -> str:
    """The newest checkpoint that can be gone on from, in words."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if path := getattr(callback, "last_good", None):
            return f"the last good checkpoint is {path}"
    return "there is no checkpoint"


def non_finite(module: LightningModule) -> set[str]:
    """The names of the parameters that are trained and hold a NaN or an infinity."""
    return {
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
        and parameter.device.type != "meta"
        and not is_lazy(parameter)
        and not bool(torch.isfinite(parameter.detach()).all())
    }
