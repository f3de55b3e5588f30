"""What is set in a model beside its weights: eval mode, parameters and statistics that rest."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn


def switches(module: nn.Module, with_modes: bool) -> dict[str, list[str]]:
    """What is set in a model beside its weights.

    Args:
        module: The model.
        with_modes: Whether the modules' modes are its own, and not those of a validation.

    Returns:
        The names of the parameters that rest, those of the modules that keep no running statistics
        (`BaseFinetuning` has them rest as well), and those of the modules in eval mode.
    """
    found = {
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
        "untracked": [name for name, part in _tracking(module) if not part.track_running_stats],
    }
    if with_modes:
        found["eval"] = [name for name, part in module.named_modules() if not part.training]
    return found


def _tracking(module: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, part)
        for name, part in module.named_modules()
        if isinstance(getattr(part, "track_running_stats", None), bool)
    ]


def set_switches(module: nn.Module, saved: dict[str, list[str]]) -> Iterator[str]:
    """Put back what a hook had set in an epoch that is past, and tell of it in words."""
    for key, parts, attribute, what in (
        ("eval", module.named_modules(), "training", "in training or evaluation mode"),
        ("frozen", module.named_parameters(), "requires_grad", "trained or frozen"),
        ("untracked", _tracking(module), "track_running_stats", "with running statistics or none"),
    ):
        if (names := saved.get(key)) is None:
            continue
        changed = {
            name: part for name, part in parts if getattr(part, attribute) == (name in names)
        }
        for name, part in changed.items():
            setattr(part, attribute, name not in names)
        if changed:
            yield f"{what} as it was saved: {_few(changed)}"


def _few(names: Iterable[str]) -> str:
    first, *others = [name or "the model" for name in names]
    return f"{first} and {len(others)} more" if others else first
