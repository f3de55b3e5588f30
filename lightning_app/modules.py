"""The modules of a model that are called, a stand-in for the forward of one, plain tensors."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class OwnForward:
    """Is called in place of a module's forward; a deep copy of the module has its own forward.

    Args:
        forward: The module's.
        stand_in: What is called.
    """

    def __init__(self, forward: Callable[..., Any], stand_in: Callable[..., Any]) -> None:
        functools.update_wrapper(self, forward)
        self.forward = forward
        self.stand_in = stand_in

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the stand-in makes of the arguments."""
        return self.stand_in(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        # Of a method that is: bound to the copy. As it was, it would use the original's weights.
        forward: Callable[..., Any] = copy.deepcopy(self.forward, memo)
        return forward


def replace_forward(module: nn.Module, stand_in: Callable[..., Any]) -> None:
    """Have a stand-in called in place of a module's forward."""
    vars(module)["forward"] = OwnForward(module.forward, stand_in)


def give_forward_back(module: nn.Module) -> None:
    """Undo `replace_forward`, where it was done."""
    own = vars(module).get("forward")
    if isinstance(own, OwnForward):
        vars(module)["forward"] = own.forward
        if getattr(own.forward, "__func__", None) is type(module).forward:
            del vars(module)["forward"]  # a class's method, that was not in the module's own names


def called_modules(root: nn.Module) -> list[nn.Module]:
    """The root's own modules that have parameters; the root where it has none.

    A `ModuleList` or `ModuleDict` is never called, so its members stand for it.
    """
    found: list[nn.Module] = []
    for child in root.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found += [module for module in called_modules(child) if module is not child]
        elif next(child.parameters(), None) is not None:
            found.append(child)
    return list(dict.fromkeys(found)) or [root]


def plain(tensor: Tensor) -> Tensor:
    """As a tensor of torch's own class; one of a library's needs trust to be loaded."""
    with torch._C.DisableTorchFunctionSubclass():  # which would give it its class back
        return tensor.as_subclass(Tensor)
