"""How many batches' gradients are accumulated, also by a model that optimizes by hand.

Lightning counts for automatic optimization alone. By hand, a batch is accumulated that has run
backward, and neither stepped nor cleared the gradients. What a batch has done is seen by what it
has written: an optimizer may be stepped past Lightning, a loss may go backward by itself.
"""

from collections import Counter
from typing import TypeAlias
from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from lightning_app import inside

Versions: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
_by_hand: WeakKeyDictionary[Trainer, int] = WeakKeyDictionary()
_hooks: WeakKeyDictionary[Trainer, RemovableHandle] = WeakKeyDictionary()


def num_accumulated(trainer: Trainer) -> int:
    """How many batches the optimizer has not stepped for, after a batch, or in its validation."""
    if trainer.lightning_module.automatic_optimization:
        return inside.num_accumulated(trainer)
    return _by_hand.get(trainer, 0) if trainer.state.fn == "fit" else 0


def count_by_hand(trainer: Trainer) -> None:
    """Count for `num_accumulated`, where the model optimizes by hand, until `count_no_more`."""
    if trainer.lightning_module.automatic_optimization:
        return
    _by_hand[trainer] = 0
    steps = Counter[int]()  # by the `id` of a group, which a wrapper shares with its optimizer

    def versions() -> list[Versions]:
        return [
            _versions(one, sum(steps[id(group)] for group in one.param_groups))
            for one in trainer.optimizers
        ]

    counts, seen = [0] * len(trainer.optimizers), versions()

    def count() -> None:
        nonlocal seen
        before, seen = seen, versions()
        for i, (old, (weights, gradients)) in enumerate(zip(before, seen, strict=False)):
            if weights != old[0] or not gradients[0]:  # it has stepped, or has cleared them
                counts[i] = 0
            elif gradients != old[1]:  # else a batch without a backward pass
                counts[i] += 1
        _by_hand[trainer] = max(counts, default=0)

    if any(group.get("fused") for one in trainer.optimizers for group in one.param_groups):
        # Fused steps leave a tensor's version as it is. This hook is in no optimizer, but torch's.
        _hooks[trainer] = register_optimizer_step_post_hook(
            lambda optimizer, *args: steps.update(map(id, optimizer.param_groups))
        )
    inside.after_step_by_hand(trainer, count)
    inside.after_step(trainer, count)  # whose hooks may step as well


def count_no_more(trainer: Trainer) -> None:
    """End what `count_by_hand` has begun; the moments of steps are left with all others'."""
    if hook := _hooks.pop(trainer, None):
        hook.remove()


def _versions(optimizer: Optimizer, num_steps: int) -> Versions:
    """What changes with what is written to the weights, and to the gradients that there are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return (
        (num_steps, sum(weight._version for weight in weights)),
        (len(gradients), sum(gradient._version for gradient in gradients)),
    )
