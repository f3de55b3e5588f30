"""Small training runs for tests: how they are made, and what is kept of them to compare."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from typing_extensions import override

from lightning_app.callbacks import callbacks
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule

# An epoch may come to its end without a step of its own.
OF_EPOCHS = ("coverage/missing", "coverage/repeated")


class MemoryLogger(Logger):
    """Keeps what is logged, but for what depends on the time that steps take: `tag → curve`."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: dict[str, dict[int, float]] = {}

    name = "memory"
    version = 0

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    @override
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        for tag, value in metrics.items():
            if tag == "epoch" or tag.startswith("workload/"):  # with each point; how fast it was
                continue
            curve = self.curves.setdefault(tag, {})
            if tag.startswith("batch_size/") and curve:  # between two points it is as at the first
                curve |= dict.fromkeys(range(max(curve) + 1, step), list(curve.values())[-1])
            assert step not in curve or tag in OF_EPOCHS, f"{tag} was logged twice at step {step}"
            curve[step] = float(value)


@dataclass
class Run:
    """What a run ended with, on one rank; `logs` tells whether that is the one that logs."""

    weights: dict[str, torch.Tensor]
    curves: dict[str, dict[int, float]]
    metrics: dict[str, float] = field(default_factory=dict)
    logs: bool = False


def make_trainer(strategy: Any, devices: int, **flags: Any) -> Trainer:
    """A quiet CPU Trainer with the callbacks of `train.py`, in float64, that writes nothing."""
    more: list[Callback] = flags.pop("callbacks", [])
    own = [one for one in callbacks(checkpoints=False) if type(one) not in map(type, more)]
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "precision": "64-true",
        "logger": MemoryLogger(),
        "log_every_n_steps": 2,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    return Trainer(
        strategy=strategy,
        devices=devices,
        callbacks=[*own, *more],
        **(defaults | flags),
    )


def fit(
    strategy: str,
    devices: int,
    model: LightningModule | None = None,
    data: LightningDataModule | None = None,
    ckpt_path: str | None = None,
    **flags: Any,
) -> Run:
    """Train from the seed 1 and tell what came of it."""
    torch.manual_seed(1)
    model = model or LinearModule(log_shapes="off")
    trainer = make_trainer(strategy, devices, **flags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders, workers, loggers
        trainer.fit(model, data or RandomDataModule(length=100), ckpt_path=ckpt_path)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    curves = trainer.logger.curves if isinstance(trainer.logger, MemoryLogger) else {}
    logs = isinstance(trainer.logger, MemoryLogger) and trainer.is_global_zero
    return Run(weights, curves, metrics, logs)


def assert_same_weights(run: Run, other: Run, tolerance: float = 1e-12) -> None:
    """Assert that two runs ended with the same weights, to a relative tolerance."""
    assert run.weights.keys() == other.weights.keys()
    for name, weight in run.weights.items():
        torch.testing.assert_close(weight, other.weights[name], rtol=tolerance, atol=tolerance)


def assert_same(run: Run, other: Run, tolerance: float = 1e-12) -> None:
    """Assert that two runs have the same weights and curves, to a relative tolerance.

    Of a rank that logs nothing, the weights alone.
    """
    assert_same_weights(run, other, tolerance)
    if not (run.logs and other.logs):
        return
    curves, others = _comparable(run), _comparable(other)
    assert curves, "nothing was logged"
    assert curves.keys() == others.keys()
    for tag, curve in curves.items():
        assert curve.keys() == others[tag].keys(), tag
        for step, value in curve.items():
            expected = others[tag][step]
            assert abs(value - expected) <= tolerance * max(abs(expected), 1), (tag, step)


def _comparable(run: Run) -> dict[str, dict[int, float]]:
    """The curves that do not depend on the layout."""
    return {tag: c for tag, c in run.curves.items() if not tag.startswith("batch_size/rank")}


class SaveAt(Callback):
    """Saves once, after a step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
