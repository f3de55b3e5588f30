"""`--compile`: the model's own modules by torch.compile, for training.

What is compiled is the forward of each outermost module with parameters; the LightningModule around
them stays as it is, because `self.log` cannot be compiled. Hooks on the modules run outside of what
is compiled, so sizes are noted as without it. A module that is in evaluation mode runs as it is.

While a run goes on, each such module has a `forward` of its own, which it gives back at the end:
the one thing that is written into a user's object, because the user asks for it. torch's public
way, `nn.Module.compile`, writes into the module too, cannot be taken back, and compiles hooks too,
also in evaluation.

Not covered: `dp`, whose replicas torch.compile does not know; CUDA graphs.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from lightning_app.modules import called_modules, say
from lightning_app.strategies import DataParallelStrategy


class CompiledForward(Callback):
    """Compiles the model's modules when training starts, and gives their forward back."""

    def __init__(self) -> None:
        self._compiled: list[nn.Module] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.strategy, DataParallelStrategy):
            raise MisconfigurationException(
                "--compile: torch.compile cannot compile the replicas of `--strategy dp`; use "
                "`--strategy ddp`"
            )
        self._compiled = called_modules(pl_module)
        for module in self._compiled:
            vars(module)["forward"] = OwnForward(module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        say(pl_module, "compiling the model: the first steps wait for it")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._give_back()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for module in self._compiled:
            _give_forward_back(module)
        self._compiled = []


class OwnForward:
    """Stands for a module's forward: compiled in training, as it is in evaluation.

    Args:
        module: Whose forward it is.
    """

    def __init__(self, module: nn.Module) -> None:
        self.forward: Callable[..., Any] = module.forward
        self.was_replaced = "forward" in vars(module)  # and is not that of the module's class
        functools.update_wrapper(self, self.forward)
        self._module, self._compiled = module, torch.compile(self.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's forward makes of the arguments."""
        return (self._compiled if self._module.training else self.forward)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the module, or one that is saved and loaded, has its own forward, as it was.
        return _same, (self.forward,)


def _same(forward: Callable[..., Any]) -> Callable[..., Any]:
    return forward


def _give_forward_back(module: nn.Module) -> None:
    own = vars(module).get("forward")
    if isinstance(own, OwnForward):
        del vars(module)["forward"]
        if own.was_replaced:
            vars(module)["forward"] = own.forward
