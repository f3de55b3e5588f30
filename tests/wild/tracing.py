"""Notes each call of a user's hooks: which, in what mode, with arguments of which shapes.

Only what the user's own classes define is noted, as nothing else is seen by the user; the classes
look to Lightning as they did.
"""

import contextlib
import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor

from tests.wild import users

_KINDS = (LightningModule, LightningDataModule, Callback)
# Saves are made at other moments than Lightning's ModelCheckpoint makes them.
OF_SAVES = {"on_save_checkpoint", "on_load_checkpoint", "state_dict", "load_state_dict"}


@contextlib.contextmanager
def traced(calls: list[str]) -> Iterator[None]:
    """Note the calls of all hooks that the classes in `users/` define."""
    for module in pkgutil.iter_modules(users.__path__, f"{users.__name__}."):
        importlib.import_module(module.name)
    wrapped: list[tuple[type, str, Any]] = []
    for kind in _classes(users.__name__):
        for name, function in list(vars(kind).items()):
            if _is_hook(kind, name, function):
                wrapped.append((kind, name, function))
                setattr(kind, name, _noting(kind, function, calls))
    try:
        yield
    finally:
        for kind, name, function in wrapped:
            setattr(kind, name, function)


def _classes(package: str) -> list[type]:
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{package}."):
            for value in vars(module).values():
                if isinstance(value, type) and issubclass(value, _KINDS):
                    found[value] = value.__module__.startswith(package)
    return [kind for kind, is_users in found.items() if is_users]


def _is_hook(kind: type, name: str, function: Any) -> bool:
    if name.startswith("_") or name in OF_SAVES or not callable(function):
        return False
    base = next(base for base in _KINDS if issubclass(kind, base))
    return hasattr(base, name)


def _noting(kind: type, function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        mode = ""
        if isinstance(self, LightningModule):
            modes = {module.training for module in self.modules()}
            mode = " ".join(sorted("train" if m else "eval" for m in modes))
            mode += f" grad={torch.is_grad_enabled()}"
        given = [describe(a) for a in args] + [f"{k}={describe(v)}" for k, v in kwargs.items()]
        calls.append(f"{kind.__name__}.{function.__name__}({', '.join(given)}) {mode}")
        return function(self, *args, **kwargs)

    return noting


def describe(value: Any) -> str:
    """A value's type, and the shapes of the tensors in it."""
    if isinstance(value, Tensor):
        shape = f"({value.size(0)}, nested)" if value.is_nested else tuple(value.shape)
        return f"{str(value.dtype).removeprefix('torch.')}{shape}"
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if isinstance(value, Trainer):
        return "trainer"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(describe, value))})"
    return type(value).__name__
