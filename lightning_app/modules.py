"""The modules of a model that are called; plain tensors; lines above a model's progress bar."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn


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


def tensors_of(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those of the Trainer's metrics that are numbers: anything may have been put beside them."""
    numbers = {key: value for key, value in values.items() if isinstance(value, (Tensor, Real))}
    return {key: plain(torch.as_tensor(value)) for key, value in numbers.items()}


def say(module: LightningModule, line: str) -> None:
    """Print above the progress bar, on the first rank, whatever a model's own `print` does."""
    LightningModule.print(module, line)
