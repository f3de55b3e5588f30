"""What GPUs can show: one, too few of them, NCCL with one rank and two, `dp`'s CUDA path."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import transcript
from tests.runs import assert_same_weights, fit
from tests.train_to_end import train

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("strategy", ["auto", "ddp", "dp"])
def test_one_gpu_trains(strategy: str, tmp_path: Path) -> None:
    flags = ("--accelerator", "gpu", "--devices", "1", "--strategy", strategy)
    outcome = train(*flags, "--max_epochs", "2", cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.startswith("1 GPU")
    assert transcript(outcome.stdout)[0].endswith("(rank 0, cuda:0)")


@pytest.mark.skipif(torch.cuda.device_count() != 1, reason="needs exactly one GPU")
@pytest.mark.parametrize("strategy", ["ddp", "dp"])
def test_two_asked_for_and_one_there(strategy: str, tmp_path: Path) -> None:
    outcome = train("--devices", "2", "--strategy", strategy, "--fast_dev_run", cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert "asked for --devices 2, found 1 GPU: running on 1 GPU" in outcome.stderr


@pytest.mark.parametrize("strategy", ["single_device", "dp"])
def test_a_gpu_gives_the_numbers_of_the_cpu(strategy: str) -> None:
    run = fit(strategy, 1, accelerator="gpu", max_epochs=2)
    assert_same_weights(run, fit("single_device", 1, max_epochs=2), tolerance=1e-10)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_replicas_on_two_gpus_give_the_numbers_of_one() -> None:
    run = fit("dp", 2, accelerator="gpu", max_epochs=2)
    assert_same_weights(run, fit("single_device", 1, accelerator="gpu", max_epochs=2), 1e-10)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_processes_on_two_gpus_give_the_numbers_of_one(tmp_path: Path) -> None:
    one, two = (weights_on("gpu", devices, tmp_path / str(devices)) for devices in (1, 2))
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)


def weights_on(accelerator: str, devices: int, folder: Path) -> Any:
    """The weights that a run in float64 has saved."""
    folder.mkdir()
    strategy = "ddp" if devices > 1 else "single_device"
    flags = ("--accelerator", accelerator, "--devices", str(devices), "--strategy", strategy)
    outcome = train(*flags, "--precision", "64-true", "--max_epochs", "2", cwd=folder)
    assert outcome.status == 0, outcome.stderr
    (path,) = folder.glob("lightning_logs/*/checkpoints/last.ckpt")
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
