"""`--compile`: the model's own modules by torch.compile, for training.

What is compiled is the forward of each outermost module with parameters; the LightningModule around
them stays as it is, because `self.log` cannot be compiled. Hooks on the modules run outside of what
is compiled, so sizes are noted as without it. A module that is in evaluation mode runs as it is.

Nothing is put into a module: its calls are answered for the time of a run. torch's public way,
`nn.Module.compile`, writes into the module, cannot be taken back, and compiles hooks too, also in
evaluation.

Not covered: `dp`, whose replicas torch.compile does not know; CUDA graphs; a `forward` that is
called by its name, which runs as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from lightning_app.modules import called_modules, say
from lightning_app.strategies import DataParallelStrategy
from lightning_app.strategies.module_calls import ModuleCalls


class CompiledForward(Callback):
    """Compiles the model's modules for the time of a training."""

    def __init__(self) -> None:
        self._calls = ModuleCalls()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.strategy, DataParallelStrategy):
            raise MisconfigurationException(
                "--compile: torch.compile cannot compile the replicas of `--strategy dp`; use "
                "`--strategy ddp`"
            )
        self._calls = ModuleCalls(answers={m: _compiled(m) for m in called_modules(pl_module)})
        self._calls.follow()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        say(pl_module, "compiling the model: the first steps wait for it")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._leave()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._calls.stop()
        self._calls = ModuleCalls()


def _compiled(module: nn.Module) -> Callable[..., Any]:
    """What answers a module's calls: its forward, compiled in training, as it is in evaluation."""
    known = module.forward
    compiled = torch.compile(known)

    def answer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Lightning lets a step stand for the forward of the model itself, under a wrapper.
        forward = module.forward
        return (compiled if module.training and forward == known else forward)(*args, **kwargs)

    return answer
