"""`--compile`: the model's own modules by torch.compile, for training.

What is compiled is the forward of each outermost module with parameters; the LightningModule around
them stays as it is, because `self.log` cannot be compiled. Hooks on the modules run outside of what
is compiled, so sizes are noted as without it. `reduce-overhead` replays CUDA graphs of the forward
and the backward pass.

Not covered: `dp`, whose replicas torch.compile does not know.
"""

from typing import Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from lightning_app.shapes import called_modules
from lightning_app.strategies import DataParallelStrategy

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class CompiledForward(Callback):
    """Compiles the model's modules when training starts, and gives their forward back at its end.

    Args:
        mode: torch.compile's.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._compiled: list[nn.Module] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.strategy, DataParallelStrategy):
            raise MisconfigurationException(
                f"--compile {self.mode}: torch.compile does not know the replicas of "
                "`--strategy dp`; use `--strategy ddp`"
            )
        self._compiled = called_modules(pl_module)
        for module in self._compiled:
            vars(module)["forward"] = torch.compile(module.forward, mode=self.mode)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for module in self._compiled:
            del vars(module)["forward"]
        self._compiled = []
