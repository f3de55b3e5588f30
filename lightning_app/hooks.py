"""Which hooks of a model, a data module or a callback do something."""

from types import FunctionType

from lightning.pytorch import Callback, LightningDataModule, LightningModule

_LIGHTNINGS = frozenset(
    function
    for kind in (Callback, LightningDataModule, LightningModule)
    for function in (getattr(kind, name) for name in dir(kind))
    if isinstance(function, FunctionType)
)


def has_hook(owner: object, name: str) -> bool:
    """Whether a hook is another than the one that Lightning's own class has.

    Lightning's `is_overridden` goes by the code of a hook. A hook need not have any: it may be a
    `Mock`, or an object of a class that can be called.
    """
    hook = getattr(owner, name)
    return callable(hook) and getattr(hook, "__func__", None) not in _LIGHTNINGS
