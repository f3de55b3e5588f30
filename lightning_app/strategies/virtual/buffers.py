"""A model's buffers in a step: virtual ranks begin with the same, and the first one's are kept.

That is what DDP does with as many processes, where it broadcasts the first one's buffers. All of
them are copied in each step: kernels, as that of BatchNorm, change some without a note. So are
tensors in plain attributes and frozen parameters, as a moving average that a step changes in place:
all in the first steps of a kind, and then those that some virtual rank has changed. Large ones are
data, not copied.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_app.strategies.checks.first_steps import NUM_STEPS
from lightning_app.strategies.checks.kept import MOST_VALUES
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.dp.writes import differing

Name: TypeAlias = tuple[str, str]  # a module's, and the buffer's or attribute's in it
Result: TypeAlias = list[tuple[Name, Tensor | None, Tensor | None]]  # buffers, and their values


@dataclass
class Kept:
    """A buffer, or a plain tensor, as a step begins.

    Attributes:
        owner: The module's dictionary that it is in.
        tensor: The tensor itself.
        value: A copy.
        is_plain: It is not a buffer.
    """

    owner: dict[str, Any]
    tensor: Tensor
    value: Tensor
    is_plain: bool


class Buffers:
    """Those of a model.

    Args:
        model: Whose.
        tell: Tells a line.

    Attributes:
        moved: The plain tensors that steps have changed in place; the same on all processes, which
            put together what each has found.
    """

    def __init__(self, model: nn.Module, tell: TellOnce) -> None:
        self._model, self._tell = model, tell
        self._num_steps = Counter[str]()  # by their kind
        self._kept: dict[Name, Kept] = {}
        self._plain_of_parts: list[dict[str, Any]] = []
        self.moved: set[Name] = set()

    def begin(self, hook: str) -> None:
        """Keep what a step begins with.

        Args:
            hook: The step's name.
        """
        self._num_steps[hook] += 1
        self._looks = self._num_steps[hook] <= NUM_STEPS
        self._plain_of_parts = []
        looks_at_plain = self._looks or self.moved
        self._kept = {
            (path, name): Kept(owner, tensor, tensor.detach().clone(), owner is not part._buffers)
            for path, part in self._model.named_modules()
            for owner in (
                part._buffers,
                *((vars(part), part._parameters) if looks_at_plain else ()),
            )
            for name, tensor in owner.items()
            if owner is part._buffers or self._is_followed(part, (path, name), tensor)
            if tensor is not None
        }

    def _is_followed(self, part: nn.Module, name: Name, value: Any) -> bool:
        """Whether it is a tensor that a step may change in place."""
        return (
            (self._looks or name in self.moved)
            and type(value) in (Tensor, nn.Parameter)
            and value.layout is torch.strided
            and value.numel() <= MOST_VALUES
            and not (value.requires_grad or value.is_quantized or value.is_meta)
            and _is_writable(value)
            and not isinstance(part, (Metric, MetricCollection))  # which add up all parts
        )

    def part_ended(self) -> None:
        """Note which plain tensors a virtual rank has changed in place."""
        if self._looks:
            plain = {name: kept for name, kept in self._kept.items() if kept.is_plain}
            self.moved |= {name for name, kept in plain.items() if _has_moved(kept)}
            self._plain_of_parts.append(
                {
                    ".".join(name).lstrip("."): plain[name].tensor.clone()
                    for name in sorted(self.moved & plain.keys())
                }
            )

    def _changeable(self) -> Iterator[tuple[Name, Kept]]:
        """All but the plain tensors that nothing has changed, which may not bear to be written."""
        for name, kept in self._kept.items():
            if not kept.is_plain or name in self.moved:
                yield name, kept

    def put_back(self) -> None:
        """Have them as the step began."""
        with torch.no_grad():
            for (_, name), kept in self._changeable():
                if not kept.is_plain:
                    kept.owner[name] = kept.tensor  # the step may have assigned another
                if _is_writable(kept.tensor):
                    _write(kept.tensor, kept.value)

    def result(self) -> Result:
        """What a virtual rank has changed of them, and to what."""
        now = [
            (name, kept, kept.tensor if kept.is_plain else kept.owner.get(name[1]))
            for name, kept in self._changeable()
        ]
        differ = [_differ(kept, tensor) for _, kept, tensor in now]
        # At once: a GPU is waited for. Some may be on another device.
        flags = torch.stack([d.to(differ[0].device) for d in differ]).tolist() if differ else []
        return [
            (name, tensor, None if tensor is None else tensor.detach().clone())
            for (name, _, tensor), is_changed in zip(now, flags, strict=True)
            if is_changed
        ]

    def end_with(self, result: Result) -> None:
        """Have them as the step began, but for a virtual rank's result; tell if others differ."""
        self.put_back()
        with torch.no_grad():
            for name, tensor, value in result:
                if not self._kept[name].is_plain:
                    self._kept[name].owner[name[1]] = tensor
                if tensor is not None and value is not None:
                    _write(tensor, value)
        if differ := differing(self._plain_of_parts):
            self._tell(
                f"{type(self._model).__name__}: steps change {', '.join(differ)} in place, each "
                "virtual rank by its own samples, and the first one's are kept: return them, or "
                "log them"
            )

    def at(self, name: Name, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A tensor to be filled, of a shape and dtype; a buffer is made anew if it has others."""
        kept = self._kept.get(name)
        if kept is None:  # an attribute that this process has not set
            return torch.empty(shape, dtype=dtype)
        tensor = kept.tensor if kept.is_plain else kept.owner[name[1]]
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            tensor = torch.empty(shape, dtype=dtype, device=kept.tensor.device)
            kept.owner[name[1]] = tensor
        return tensor


def _is_writable(tensor: Tensor) -> bool:
    """Whether it can be changed in place; what inference mode has made only there."""
    return torch.is_inference_mode_enabled() or not tensor.is_inference()


def _write(tensor: Tensor, value: Tensor) -> None:
    if tensor.shape != value.shape:  # a step has changed it in place
        tensor.resize_(value.shape)
    tensor.copy_(value)


def _has_moved(kept: Kept) -> bool:
    """Whether a plain tensor has another shape or other values; NaN and NaN are the same."""
    now, before = kept.tensor.detach(), kept.value
    if now.shape != before.shape:
        return True
    return bool(((now != before) & ~((now != now) & (before != before))).any())


def _differ(kept: Kept, tensor: Tensor | None) -> Tensor:
    """Whether a buffer is another than was kept, as a tensor on the device; NaN counts as other."""
    if tensor is not kept.tensor or tensor.shape != kept.value.shape:
        return torch.ones((), dtype=torch.bool, device=kept.value.device)
    return (tensor != kept.value).any()
