"""Tells of losses that are no means over samples, where this can be seen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

Tell = Callable[[str], None]

LOSSES = (functional.cross_entropy, functional.nll_loss)


@contextmanager
def tells_of_weighted_means(step: str, num_samples: int, tell: Tell) -> Iterator[None]:
    """Tell if a loss of torch's that is called meanwhile weighs samples, or leaves some out.

    Args:
        step: Its name, for the user.
        num_samples: That it is given.
        tell: Is given the line.
    """
    with _Watch(step, num_samples, tell):
        yield


class _Watch(TorchFunctionMode):
    def __init__(self, step: str, num_samples: int, tell: Tell) -> None:
        super().__init__()
        self._step, self._num_samples, self._tell = step, num_samples, tell

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
        if not (target.is_floating_point() or self._is_even(target == ignore_index)):
            why = f"leaves out labels of {ignore_index}"
        if why:
            self._tell(
                f"{self._step}: {name} {why}, so the loss is not a mean over samples, and several "
                "processes weigh it otherwise than one device does. Tell over what it is a mean, "
                "by a method `loss_is_mean_over(batch)` of the model: docs/your_code.md"
            )

    def _is_even(self, left_out: Tensor) -> bool:
        """Whether as much is left out of each sample, as of texts that are shifted by a word."""
        if not left_out.any():
            return True
        if not self._num_samples or left_out.numel() % self._num_samples:
            return False
        counts = left_out.reshape(self._num_samples, -1).sum(1)
        return bool((counts == counts[0]).all())
