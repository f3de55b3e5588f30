"""Gradients of virtual ranks: taken after each backward pass, put in place once they are summed."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn import Parameter

Flat: TypeAlias = list[Tensor]  # all gradients of a dtype in one tensor `(N,)`, dtype by dtype


def add(left: Flat, right: Flat) -> Flat:
    """The sum of two, kept in the first."""
    for own, other in zip(left, right, strict=True):
        own += other
    return left


class Gradients:
    """The gradients of a step, whatever the parameters' `.grad` has of earlier batches.

    They lie in one tensor a dtype, in the order of parameters, so that what goes by their place in
    memory (sums in a norm, say) is alike, however many processes there are.

    Args:
        parameters: Those of the model.
        divisor: The flat tensors' length is a multiple of it.
    """

    def __init__(self, parameters: Iterable[Parameter], divisor: int) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._divisor = divisor
        self._before = [p.grad for p in self._parameters]
        self.missing: set[int] = set(range(len(self._parameters)))  # that no part has had
        self._clear()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def give_back(self) -> None:
        """Put back what there was before the step."""
        for parameter, gradient in zip(self._parameters, self._before, strict=True):
            parameter.grad = gradient
        self._before = []

    def take(self) -> Flat:
        """Those of the last backward pass, zero where there was none."""
        for number, parameter in enumerate(self._parameters):
            if (gradient := parameter.grad) is not None:
                if gradient.layout != torch.strided:
                    raise MisconfigurationException(
                        "--virtual_ranks: a gradient is sparse, and only dense ones are added up "
                        "in a fixed order: leave out sparse=True, or --virtual_ranks"
                    )
                self.missing.discard(number)
        flat = self._flat(lambda p: torch.zeros_like(p) if p.grad is None else p.grad)
        self._clear()
        return flat

    def zeros(self) -> Flat:
        """Of the size of all gradients."""
        return self._flat(torch.zeros_like)

    def _flat(self, gradient_of: Callable[[Parameter], Tensor]) -> Flat:
        flat = []
        for group in self._groups():
            parts = [gradient_of(parameter).detach().reshape(-1) for parameter in group]
            padding = -sum(map(len, parts)) % self._divisor
            flat.append(torch.cat([*parts, parts[0].new_zeros(padding)]))
        return flat

    def _groups(self) -> list[list[Parameter]]:
        groups: dict[torch.dtype, list[Parameter]] = {}
        for parameter in self._parameters:
            groups.setdefault(parameter.dtype, []).append(parameter)
        return list(groups.values())

    def place(self, sums: Flat) -> None:
        """Add the sums to what the parameters' `.grad` has; one that no part had is left alone."""
        missing = {id(self._parameters[number]) for number in self.missing}
        for whole, group in zip(sums, self._groups(), strict=True):
            start = 0
            for parameter in group:
                part = whole[start : start + parameter.numel()].view(parameter.shape)
                start += parameter.numel()
                if id(parameter) in missing:
                    continue
                if parameter.grad is None:
                    parameter.grad = part
                else:
                    parameter.grad += part
