"""The parts in a script of one's own: a strategy object and `callbacks()`, without `register()`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import ROOT

SCRIPT = """
import sys

import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_app.callbacks import callbacks
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.strategies import DataParallelStrategy, DDPStrategy, SingleDeviceStrategy


def weights(strategy, devices):
    seed_everything(42)
    model = LinearModule(5, 2).double()
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, callbacks=callbacks(),
        max_epochs=1, precision="64-true", enable_progress_bar=False,
    )
    trainer.fit(model, RandomDataModule(length=101))
    return model.state_dict(), trainer.callback_metrics["val/loss"]


if __name__ == "__main__":
    if sys.argv[1:] == ["ddp"]:  # which starts the script again for its second rank
        found = {"ddp": weights(DDPStrategy(), 2)}
    else:
        found = {
            "one": weights(SingleDeviceStrategy(), 1),
            "dp": weights(DataParallelStrategy(), 3),
            "fork": weights(DDPStrategy(start_method="fork"), 2),
        }
    torch.save(found, f"{len(sys.argv)}.pt")
"""


@pytest.mark.timeout(180)
def test_numbers_are_the_same_without_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    found: dict[str, Any] = {}
    for arguments in ((), ("ddp",)):
        run = subprocess.run(
            [sys.executable, "script.py", *arguments],
            cwd=tmp_path,
            env={"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=80,
        )
        assert run.returncode == 0, run.stderr
        assert "DistributedSampler" not in run.stderr
        assert (
            "Outside: input size torch.Size([11, 5]) output_size torch.Size([11, 2])" in run.stdout
        )
        found |= torch.load(tmp_path / f"{len(arguments) + 1}.pt")
    assert found.keys() == {"one", "dp", "fork", "ddp"}
    for weights, loss in found.values():
        torch.testing.assert_close(weights, found["one"][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(loss, found["one"][1], rtol=1e-12, atol=0)
