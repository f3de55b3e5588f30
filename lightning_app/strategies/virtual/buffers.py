"""A model's buffers in a step: virtual ranks begin with the same, and the first one's are kept.

That is what DDP does with as many processes, where it broadcasts the first one's buffers. All of
them are copied in each step: kernels, as that of BatchNorm, change some without a note. So are
tensors in plain attributes, as a moving average that a step changes in place: all in the first
steps of a kind, and then those that some virtual rank has changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_app.strategies.first_steps import NUM_STEPS

Name: TypeAlias = tuple[str, str]  # a module's, and the buffer's or attribute's in it
Result: TypeAlias = list[tuple[Name, Tensor | None, Tensor | None]]  # buffers, and their values


@dataclass
class Kept:
    """A buffer as a step begins.

    Attributes:
        owner: The module's dictionary that it is in.
        tensor: The buffer itself.
        value: A copy.
    """

    owner: dict[str, Tensor | None]
    tensor: Tensor
    value: Tensor


class Buffers:
    """Those of a model.

    Args:
        model: Whose.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[Name, Kept] = {}

    def begin(self) -> None:
        """Keep what a step begins with."""
        self._kept = {
            (path, name): Kept(part._buffers, tensor, tensor.detach().clone())
            for path, part in self._model.named_modules()
            for name, tensor in part._buffers.items()
            if tensor is not None
        }

    def put_back(self) -> None:
        """Have them as the step began."""
        with torch.no_grad():
            for (_, name), kept in self._kept.items():
                kept.owner[name] = kept.tensor  # the step may have assigned another
                kept.tensor.copy_(kept.value)

    def result(self) -> Result:
        """What a virtual rank has changed of them, and to what."""
        now = [(name, kept, kept.owner.get(name[1])) for name, kept in self._kept.items()]
        differ = [_differ(kept, tensor) for _, kept, tensor in now]
        flags = torch.stack(differ).tolist() if differ else []  # at once: a GPU is waited for
        return [
            (name, tensor, None if tensor is None else tensor.detach().clone())
            for (name, _, tensor), is_changed in zip(now, flags, strict=True)
            if is_changed
        ]

    def end_with(self, result: Result) -> None:
        """Have them as the step began, but for a virtual rank's result."""
        self.put_back()
        with torch.no_grad():
            for name, tensor, value in result:
                self._kept[name].owner[name[1]] = tensor
                if tensor is not None and value is not None:
                    tensor.copy_(value)

    def at(self, name: Name, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A buffer to be filled, of a shape and dtype; made anew if it has others."""
        kept = self._kept[name]
        tensor = kept.owner[name[1]]
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            tensor = torch.empty(shape, dtype=dtype, device=kept.tensor.device)
            kept.owner[name[1]] = tensor
        return tensor


def _differ(kept: Kept, tensor: Tensor | None) -> Tensor:
    """Whether a buffer is another than was kept, as a tensor on the device; NaN is."""
    if tensor is not kept.tensor or tensor.shape != kept.value.shape:
        return torch.ones((), dtype=torch.bool, device=kept.value.device)
    return (tensor != kept.value).any()
