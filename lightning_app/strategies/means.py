"""Tells of losses that are no means over samples, where this can be seen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

LOSSES = (functional.cross_entropy, functional.nll_loss)


@contextmanager
def tells_of_weighted_means(model: LightningModule) -> Iterator[None]:
    """Warn if a loss of torch's that is called meanwhile weighs samples, or leaves some out."""
    with _Watch(f"{type(model).__name__}.training_step"):
        yield


class _Watch(TorchFunctionMode):
    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOSSES and not torch.compiler.is_compiling():
            with suppress(RuntimeError):  # what cannot be looked at, as within torch.func.vmap
                self._look(func.__name__, *args, **kwargs)
        return func(*args, **kwargs)

    def _look(
        self,
        name: str,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        ignore_index: int = -100,
        reduce: Any = None,
        reduction: str = "mean",
        **others: Any,
    ) -> None:
        if reduction != "mean":
            return
        why = "weighs its classes" if weight is not None else ""
        if not target.is_floating_point() and bool((target == ignore_index).any()):
            why = f"leaves out labels of {ignore_index}"
        if why:
            rank_zero_warn(
                f"{self._step}: {name} {why}, so the loss is not a mean over samples, and several "
                "processes weigh it otherwise than one device does. Tell over what it is a mean, "
                "by a method `loss_is_mean_over(batch)` of the model: docs/your_code.md"
            )
