"""How many batches' gradients are accumulated, also by a model that optimizes by hand.

Lightning counts for automatic optimization alone. By hand, a batch is accumulated that has run
backward, and neither stepped nor cleared the gradients. What a batch has done is seen by what it
has written: an optimizer may be stepped past Lightning, a loss may go backward by itself.
"""

from typing import TypeAlias
from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer
from torch.optim import Optimizer

from lightning_app import inside

Versions: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
_by_hand: WeakKeyDictionary[Trainer, int] = WeakKeyDictionary()


def num_accumulated(trainer: Trainer) -> int:
    """How many batches the optimizer has not stepped for, after a batch, or in its validation."""
    if trainer.lightning_module.automatic_optimization:
        return inside.num_accumulated(trainer)
    return _by_hand.get(trainer, 0) if trainer.state.fn == "fit" else 0


def count_by_hand(trainer: Trainer) -> None:
    """Count from now on, for `num_accumulated`, where the model optimizes by hand."""
    if trainer.lightning_module.automatic_optimization:
        return
    _by_hand[trainer] = 0
    counts, seen = [0] * len(trainer.optimizers), _all_versions(trainer)

    def count() -> None:
        nonlocal seen
        before, seen = seen, _all_versions(trainer)
        for i, (old, (weights, gradients)) in enumerate(zip(before, seen, strict=False)):
            if weights != old[0] or not gradients[0]:  # it has stepped, or has cleared them
                counts[i] = 0
            elif gradients != old[1]:  # else a batch without a backward pass
                counts[i] += 1
        _by_hand[trainer] = max(counts, default=0)

    inside.after_step_by_hand(trainer, count)
    inside.after_step(trainer, count)  # whose hooks may step as well


def _all_versions(trainer: Trainer) -> list[Versions]:
    return [_versions(optimizer, trainer.global_step) for optimizer in trainer.optimizers]


def _versions(optimizer: Optimizer, global_step: int) -> Versions:
    """What changes with what is written to the weights, and to the gradients that there are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    # Fused steps leave a tensor's version as it is; the Trainer counts those it knows of.
    is_fused = any(group.get("fused") for group in optimizer.param_groups)
    return (
        (global_step if is_fused else 0, sum(weight._version for weight in weights)),
        (len(gradients), sum(gradient._version for gradient in gradients)),
    )
