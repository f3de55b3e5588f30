"""`--compile`: the model's own modules by torch.compile, for training.

What is compiled is the forward of each outermost module with parameters; the LightningModule around
them stays as it is, because `self.log` cannot be compiled. Hooks on the modules run outside of what
is compiled, so sizes are noted as without it. A module that is in evaluation mode runs as it is.

Not covered: `dp`, whose replicas torch.compile does not know; CUDA graphs.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from lightning_app.modules import called_modules, give_forward_back, replace_forward
from lightning_app.strategies import DataParallelStrategy


class CompiledForward(Callback):
    """Compiles the model's modules when training starts, and gives their forward back."""

    def __init__(self) -> None:
        self._compiled: list[nn.Module] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.strategy, DataParallelStrategy):
            raise MisconfigurationException(
                "--compile: torch.compile does not know the replicas of `--strategy dp`; use "
                "`--strategy ddp`"
            )
        self._compiled = called_modules(pl_module)
        for module in self._compiled:
            replace_forward(module, _compiled_in_training(module))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.print("compiling the model: the first steps wait for it")

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
            give_forward_back(module)
        self._compiled = []


def _compiled_in_training(module: nn.Module) -> Callable[..., Any]:
    forward = module.forward
    compiled = torch.compile(forward)

    def run(*args: Any, **kwargs: Any) -> Any:
        return (compiled if module.training else forward)(*args, **kwargs)

    return run
