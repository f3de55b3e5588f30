"""What `DistributedDataParallel` has to know of a model, and whether the ranks still agree."""

import math
import operator
from collections.abc import Collection, Iterable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from torch import nn

from lightning_app.processes.collectives import all_objects


class TrainedParameters:
    """Notices when parameters are frozen, unfrozen, or new: DDP averages those it was made for.

    Args:
        module: The user's model, as DDP is made for it.
        finds_unused: DDP does without the gradients of some: what is frozen may stay in it.

    Attributes:
        all: The parameters whose gradients are averaged, while they are trained.
    """

    def __init__(self, module: nn.Module, finds_unused: bool = False) -> None:
        self._module = module
        self.all = list(module.parameters())
        self._made_for = self._flags()
        self._differs = operator.gt if finds_unused else operator.ne

    def _flags(self) -> list[bool]:
        return [parameter.requires_grad for parameter in self.all]

    def have_changed(self, new: Collection[nn.Parameter] | None = None) -> bool:
        """Whether DDP has to be made anew, as other parameters are trained than it was made for.

        Args:
            new: Those that may be new in the model, which is gone through then. Others are left
                out: a callback may have put a layer into the model, which it trains itself.
        """
        if new is not None:
            averaged = {*self.all, *new}
            present = [p for p in self._module.parameters() if p in averaged]
            if len(present) != len(self.all) or any(
                a is not b for a, b in zip(present, self.all, strict=True)
            ):
                self.all, self._made_for = present, [False] * len(present)
        flags = self._flags()
        if not any(map(self._differs, flags, self._made_for)):
            return False
        self._made_for = flags
        return True

    def check(self) -> None:
        """Refuse what is frozen or unfrozen in a step, before its backward pass.

        Raises:
            MisconfigurationException: DDP, which was made before the step, averages no gradient of
                a parameter that is trained, or waits for that of one that is not.
        """
        flags = self._flags()
        for index, differs in enumerate(map(self._differs, flags, self._made_for)):
            if differs:
                names = (n for n, p in self._module.named_parameters() if p is self.all[index])
                raise MisconfigurationException(
                    f"{next(names, 'a parameter')} is {'un' * flags[index]}frozen within "
                    "training_step, when the processes have agreed on the gradients that they "
                    "average: do it in `on_train_batch_start`"
                    + ", or give the strategy `find_unused_parameters=True`"
                    * (not flags[index])
                )


def check_no_hook(wrapped: Any) -> None:
    """Refuse to make DDP anew where that would lose a hook of the user's.

    Raises:
        MisconfigurationException: It has one.
    """
    if wrapped._comm_hooks:
        raise MisconfigurationException(
            "other parameters are trained than at the start, so DDP is made anew, which "
            "would lose the communication hook: give it as `ddp_comm_hook` to the strategy"
        )


def check_ranks_agree(
    module: nn.Module, averaged: Collection[nn.Parameter] | None = None
) -> list[str]:
    """Notice ranks that train on with weights of their own; all ranks have to call this.

    Args:
        module: The model.
        averaged: The parameters that are trained by averaged gradients; all of it, if not given.

    Returns:
        The others that differ: frozen ones, as a codebook that each rank moves by its own samples,
        and layers that a callback has put into the model and trains.

    Raises:
        MisconfigurationException: The ranks' weights differ.
    """
    own = _fingerprint(module)
    ranks = all_objects(own)
    among = set(module.parameters() if averaged is None else averaged)
    trained = {n for n, p in module.named_parameters() if p.requires_grad and p in among}
    parted: dict[str, None] = {}
    for name, first in ranks[0].items():
        for rank, weights in enumerate(ranks):
            value = weights.get(name, math.inf)
            if not math.isclose(first, value, rel_tol=1e-9) and first == first:
                if name not in trained:
                    parted[name] = None
                    continue
                raise MisconfigurationException(
                    f"the ranks' weights are no longer the same: {name} differs between rank 0 and "
                    f"rank {rank}. Is it changed on one rank only, or trained by gradients that "
                    "are not averaged, as by `loss.backward()` in place of "
                    "`self.manual_backward(loss)`, or have parameters no part in the loss (use "
                    "`--strategy ddp_find_unused_parameters_true`), or do the ranks' GPUs or CPUs "
                    "differ?"
                )
    return list(parted)


def trained_apart(callbacks: Iterable[Callback], model: nn.Module) -> list[str]:
    """The callbacks' own modules whose weights are not the ranks'; all ranks have to call this."""
    own = {
        f"{type(callback).__name__}.{name}": _fingerprint(part)
        for callback in callbacks
        for name, part in vars(callback).items()
        if isinstance(part, nn.Module) and part is not model
    }
    ranks = all_objects(own)
    return [
        name
        for name, first in ranks[0].items()
        if any(not _are_close(first, other[name]) for other in ranks if name in other)
    ]


def _are_close(first: dict[str, float], other: dict[str, float]) -> bool:
    return first.keys() == other.keys() and all(
        math.isclose(value, other[name], rel_tol=1e-9) or value != value
        for name, value in first.items()
    )


def _fingerprint(module: nn.Module) -> dict[str, float]:
    """The sum of the absolute values of each parameter, by its name."""
    ignored = getattr(module, "_ddp_params_and_buffers_to_ignore", ())
    names = [name for name, p in module.named_parameters() if name not in ignored and p.numel()]
    parameters = dict(module.named_parameters())
    sums = [parameters[name].detach().abs().double().sum() for name in names]
    return dict(zip(names, torch.stack(sums).tolist(), strict=True)) if sums else {}
