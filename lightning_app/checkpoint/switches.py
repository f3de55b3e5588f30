"""What is set in a model beside its weights: modules in eval mode, parameters that rest."""

from collections.abc import Iterable, Iterator

from torch import nn


def switches(module: nn.Module, with_modes: bool) -> dict[str, list[str]]:
    """What is set in a model beside its weights.

    Args:
        module: The model.
        with_modes: Whether the modules' modes are its own, and not those of a validation.

    Returns:
        The names of the parameters that rest, and those of the modules in eval mode.
    """
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    if not with_modes:
        return {"frozen": frozen}
    return {
        "eval": [name for name, part in module.named_modules() if not part.training],
        "frozen": frozen,
    }


def set_switches(module: nn.Module, saved: dict[str, list[str]]) -> Iterator[str]:
    """Put back what a hook had set in an epoch that is past, and tell of it in words."""
    for key, parts, attribute, what in (
        ("eval", module.named_modules(), "training", "in training or evaluation mode"),
        ("frozen", module.named_parameters(), "requires_grad", "trained or frozen"),
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
