"""The order of the callbacks, and that they are of use without the command line."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_app.callbacks import callbacks
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.strategies import SingleDeviceStrategy
from lightning_app.telemetry.console import Console

# Each of these gives, or sets up, something for the other.
BEFORE = [
    ("CompiledForward", "DirectStep"),
    ("DirectStep", "StepsPerExecution"),
    ("StepsPerExecution", "ShapeLogger"),
    ("ShapeLogger", "Throughput"),
    ("ShapeLogger", "Dashboard"),
    ("LossLogger", "Console"),
    ("Coverage", "Console"),
    ("Resume", "LastCheckpoint"),
    ("Surroundings", "LastCheckpoint"),
    ("AgreedStop", "LastCheckpoint"),
]


def test_what_gives_comes_before_what_takes() -> None:
    everything = callbacks(
        compile_modules=True, data_on_device=True, steps_per_execution=2, predictions=True
    )
    names = [type(callback).__name__ for callback in everything]
    assert len(set(names)) == len(names) == 16
    for first, second in BEFORE:
        assert names.index(first) < names.index(second), (first, second)
    assert "DirectStep" not in {type(c).__name__ for c in callbacks(plain_steps=True)}
    *others, console = everything
    assert isinstance(console, Console)
    is_last = [isinstance(callback, Checkpoint) for callback in others]
    assert is_last == sorted(is_last)


@pytest.mark.filterwarnings("default")
def test_a_script_of_ones_own_has_it_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    trainer = Trainer(
        strategy=SingleDeviceStrategy(),
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks(),
    )
    trainer.fit(LinearModule(), RandomDataModule(length=100))
    assert "1 CPU process, single_device, global batch 30" in capsys.readouterr().out
    assert trainer.callback_metrics["coverage/missing"] == 0
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1
