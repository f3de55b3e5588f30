"""The callbacks that flags and configs name, and arguments of Lightning's that fail only later."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback

from lightning_app.errors import UsageError


def _is_amount(amount: Any) -> bool:
    """Whether that many parameters can be pruned, or that part of them; a function tells later."""
    if not isinstance(amount, (int, float)):
        return True
    return amount >= 0 and (amount <= 1 or isinstance(amount, int))


Rule = tuple[str, tuple[str, ...], Callable[..., bool], str]
_RULES: tuple[Rule, ...] = (
    (
        "LearningRateFinder",
        ("min_lr", "max_lr"),
        lambda least, most: 0 < least < most,
        "they must be above 0, the second above the first",
    ),
    ("LearningRateFinder", ("num_training_steps",), lambda n: n > 0, "it must be 1 or more"),
    (
        "BatchSizeFinder",
        ("init_val", "steps_per_trial", "max_trials"),
        lambda *numbers: min(numbers) > 0,
        "each must be 1 or more",
    ),
    ("StochasticWeightAveraging", ("swa_lrs",), lambda rates: rates != [], "it has no rate"),
    ("StochasticWeightAveraging", ("annealing_epochs",), lambda n: n >= 0, "it must be 0 or more"),
    ("ModelPruning", ("amount",), _is_amount, "it must be 0 or more, or a part from 0.0 to 1.0"),
)


def check_callbacks(callbacks: Any) -> None:
    """Refuse arguments that a run would fail at later.

    Args:
        callbacks: The Trainer's, as the parser keeps them: one or several, or `None`.

    Raises:
        UsageError: There is one.
    """
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        package, _, kind = str(getattr(callback, "class_path", "")).rpartition(".")
        if not package.startswith("lightning."):
            continue
        for name, arguments, is_right, must in _RULES:
            if kind == name:
                values = [callback.init_args[argument] for argument in arguments]
                if not is_right(*values):
                    pairs = zip(arguments, values, strict=True)
                    told = ", ".join(f"{argument} {value}" for argument, value in pairs)
                    raise UsageError(f"--callbacks {name}: {told}: {must}")


def as_list(callbacks: Any) -> list[Any]:
    return callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []


def has_one(kind: type[Callback], callbacks: Any) -> bool:
    """Whether one of the callbacks, which may be one alone, is of a kind."""
    return any(isinstance(callback, kind) for callback in as_list(callbacks))
