"""A model's buffers in a step: virtual ranks begin with the same, and the first one's are kept.

That is what DDP does with as many processes, where it broadcasts the first one's buffers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

Name: TypeAlias = tuple[str, str]  # a module's, and the buffer's in it
Result: TypeAlias = list[tuple[Name, Tensor | None, Tensor | None]]  # buffers, and their values


@dataclass
class Kept:
    """A buffer as a step begins.

    Attributes:
        owner: The module's dictionary that it is in.
        tensor: The buffer itself.
        value: A copy.
        version: Of the buffer when it was copied; `None` if nothing tells.
    """

    owner: dict[str, Tensor | None]
    tensor: Tensor
    value: Tensor
    version: int | None


class Buffers:
    """Those of a model; only what has changed is copied.

    Args:
        model: Whose.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[Name, Kept] = {}

    def begin(self) -> None:
        """Keep what a step begins with."""
        kept, self._kept = self._kept, {}
        for path, part in self._model.named_modules():
            for name, tensor in part._buffers.items():
                if tensor is not None:
                    old = kept.get((path, name))
                    is_known = old is not None and not _differs(old, tensor)
                    self._kept[path, name] = (
                        old  # type: ignore[assignment]
                        if is_known
                        else Kept(part._buffers, tensor, tensor.detach().clone(), _version(tensor))
                    )

    def _changed(self) -> Iterator[tuple[Name, Kept]]:
        for (path, name), kept in self._kept.items():
            if _differs(kept, kept.owner.get(name)):
                yield (path, name), kept

    def put_back(self) -> None:
        """Have them as the step began."""
        with torch.no_grad():
            for (_, name), kept in list(self._changed()):
                kept.owner[name] = kept.tensor
                kept.tensor.copy_(kept.value)
                kept.version = _version(kept.tensor)

    def result(self) -> Result:
        """What a virtual rank has made of them."""
        values = ((name, kept.owner.get(name[1])) for name, kept in self._changed())
        return [(name, t, None if t is None else t.detach().clone()) for name, t in values]

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
        owner = self._kept[name].owner
        tensor = owner[name[1]]
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            device = self._kept[name].tensor.device
            owner[name[1]] = tensor = torch.empty(shape, dtype=dtype, device=device)
        return tensor


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _differs(kept: Kept, tensor: Tensor | None) -> bool:
    """Whether a buffer may be another than was kept."""
    if tensor is not kept.tensor:
        return True
    return kept.version is None or _version(kept.tensor) != kept.version
