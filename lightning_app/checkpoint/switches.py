"""What is set in a model beside its weights: modules in eval mode, parameters that rest."""

from collections.abc import Iterable, Iterator

from torch import nn


def switches(module: nn.Module) -> dict[str, list[str]]:
    """What is set in a model beside its weights: modules in eval mode, parameters that rest."""
    return {
        "eval": [name for name, part in module.named_modules() if not part.training],
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
    }


def set_switches(module: nn.Module, saved: dict[str, list[str]]) -> Iterator[str]:
    """Put back what a hook had set in an epoch that is past, and tell of it in words."""
    if not saved or switches(module) == saved:
        return
    for names, parts, attribute, what in (
        (saved["eval"], module.named_modules(), "training", "in training or evaluation mode"),
        (saved["frozen"], module.named_parameters(), "requires_grad", "trained or frozen"),
    ):
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
