"""How many batches' gradients are accumulated, also by a model that optimizes by hand.

Lightning counts for automatic optimization alone. By hand, a batch is accumulated that has run
backward, and neither stepped nor cleared the gradients. What a batch has done is seen by what it
has written: an optimizer may be stepped past Lightning, a loss may go backward by itself.
"""

from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer

from lightning_app import inside

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
    weights, gradients = _versions(trainer)

    def count() -> None:
        nonlocal weights, gradients
        before, (weights, gradients) = (weights, gradients), _versions(trainer)
        has_stepped = weights != before[0]
        if has_stepped or not gradients[0]:
            _by_hand[trainer] = 0
        elif gradients != before[1]:  # else a batch without a backward pass; they may be used up
            _by_hand[trainer] += 1

    inside.after_step_by_hand(trainer, count)


def _versions(trainer: Trainer) -> tuple[tuple[int, int], tuple[int, int]]:
    """What changes with what is written to the weights, and to the gradients that there are."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    weights = [weight for group in groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return (
        # Fused steps leave a tensor's version as it is; the Trainer counts those it knows of.
        (trainer.global_step, sum(weight._version for weight in weights)),
        (len(gradients), sum(gradient._version for gradient in gradients)),
    )
