"""Runs with virtual ranks, and what is compared of them: a hash, and every point of the curves."""

import warnings
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from typing_extensions import override

from lightning_app import strategies
from lightning_app.checkpoint.resume import Resume
from tests.command import transcript
from tests.runs import MemoryLogger, make_trainer
from tests.strategies.virtual import strangers, users

V = 8
CLIPPED = {"gradient_clip_val": 0.5}

# Model, batch size, what the data takes, the Trainer's flags.
CASES: dict[str, tuple[Any, int, dict[str, Any], dict[str, Any]]] = {
    "cnn": (users.CNN, 30, {}, CLIPPED),
    "transformer": (users.Transformer, 30, {}, CLIPPED),
    "branches": (users.Branches, 30, {}, CLIPPED),
    "gru": (users.GRU, 13, {}, CLIPPED),
    "augmented": (users.CNN, 30, {"augments": True}, {}),
    "workers": (users.CNN, 30, {"augments": True, "num_workers": 2}, {}),
    "bf16": (users.Transformer, 30, {}, {"precision": "bf16-mixed"}),
    "lbfgs": (users.Searches, 30, {}, {}),
    "accumulated": (users.CNN, 30, {}, {"accumulate_grad_batches": 3} | CLIPPED),
    "diffusion": (strangers.Diffusion, 13, {}, CLIPPED),
    "vae": (strangers.VAE, 30, {}, {}),
    "recommender": (strangers.Recommender, 13, {}, {}),
    # Fewer samples than virtual ranks.
    "short": (users.Shown, 5, {"augments": True}, {"limit_train_batches": 2, "max_epochs": 1}),
}


class Ended(NamedTuple):
    """What a run has come to, and what it has shown."""

    sha256: str
    transcript: list[str]
    curves: dict[str, dict[int, float]]


class StopsAt(Callback):
    """Saves a checkpoint after a step, and ends the run."""

    def __init__(self, step: int, path: str) -> None:
        self.step, self.path = step, path

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step >= self.step and not trainer.should_stop:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def train(
    name: str,
    devices: int = 1,
    stop: tuple[int, str] | None = None,
    path: str | None = None,
    strategy: Any = None,
    **more: Any,
) -> Ended:
    """Train a case on some processes, as many as call this at once; on CPUs by default."""
    kind, batch_size, data, flags = CASES[name]
    torch.manual_seed(1)
    model = kind()
    asked = "single_device" if devices == 1 else "ddp"
    defaults = {"precision": "32-true", "max_epochs": 3}
    callbacks = [Resume(), *([StopsAt(*stop)] if stop else [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "`torch.distributed", FutureWarning)
        trainer = make_trainer(
            strategy or strategies.with_virtual_ranks(asked, V),
            devices,
            callbacks=callbacks,
            **(defaults | flags | more),
        )
        with redirect_stdout(StringIO()) as shown:
            trainer.fit(model, users.Data(batch_size, **data), ckpt_path=path)
    assert isinstance(trainer.logger, MemoryLogger)
    return Ended(users.sha256(trainer), transcript(shown.getvalue()), trainer.logger.curves)


def train_all(names: list[str], devices: int, flags: dict[str, Any]) -> dict[str, Ended]:
    """Train some cases, one after the other, with further flags of the Trainer's."""
    return {name: train(name, devices, **flags) for name in names}
