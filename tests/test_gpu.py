"""What GPUs can show: one, too few of them, NCCL with one rank and two, `dp`'s CUDA path."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import transcript
from tests.events import scalars
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
    flags = ("--accelerator", "gpu", "--precision", "64-true", "--max_epochs", "2")
    one = saved(*flags, "--devices", "1", cwd=tmp_path / "one")
    two = saved(*flags, "--devices", "2", "--strategy", "ddp", cwd=tmp_path / "two")
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("first", ["cpu", "gpu"])
def test_goes_on_on_another_kind_of_device(first: str, tmp_path: Path) -> None:
    """In mid-epoch, in float64."""
    flags = ("--precision", "64-true", "--max_epochs", "2")
    whole = saved(*flags, "--accelerator", "cpu", cwd=tmp_path / "whole")
    other = {"cpu": "gpu", "gpu": "cpu"}[first]
    saved(*flags, "--accelerator", first, "--max_steps", "9", cwd=tmp_path)
    further = ("--accelerator", other, "--max_steps", "-1", "--ckpt_path", "last")
    weights = saved(*flags, *further, cwd=tmp_path)
    torch.testing.assert_close(weights, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true"])
def test_goes_on_in_less_precision(precision: str, tmp_path: Path) -> None:
    """With the state of what scales the loss: to the bit, on one GPU."""
    flags = ("--accelerator", "gpu", "--devices", "1", "--precision", precision)
    whole = saved(*flags, "--max_epochs", "2", cwd=tmp_path / "whole")
    saved(*flags, "--max_epochs", "2", "--max_steps", "9", cwd=tmp_path)
    further = ("--max_epochs", "2", "--max_steps", "-1", "--ckpt_path", "last")
    torch.testing.assert_close(saved(*flags, *further, cwd=tmp_path), whole, rtol=0, atol=0)


@pytest.mark.parametrize("flag", ["--steps_per_execution=10", "--data_on_device", "--compile"])
def test_the_speeds_have_the_same_numbers(flag: str, tmp_path: Path) -> None:
    flags = ("--accelerator", "gpu", "--devices", "1", "--max_epochs", "2")
    usual = saved(*flags, cwd=tmp_path / "usual")
    fast = saved(*flags, flag, cwd=tmp_path)
    torch.testing.assert_close(fast, usual, rtol=1e-5, atol=1e-6)


def test_what_is_told_of_the_gpu(tmp_path: Path) -> None:
    flags = ("--accelerator", "gpu", "--devices", "1", "--max_epochs", "1")
    outcome = train(*flags, cwd=tmp_path)
    assert (outcome.status, outcome.stderr) == (0, "")
    (folder,) = tmp_path.glob("lightning_logs/*")
    curves = scalars(folder)
    index = curves.keys() & {"workload/gpu_0_memory_mib", "workload/gpu_0_utilization_percent"}
    assert len(index) == 2, curves.keys()
    assert min(curves["workload/gpu_0_memory_mib"].values()) > 100


def test_gpus_that_are_not_there_are_an_error_where_they_are_asked_for(tmp_path: Path) -> None:
    asked = str(torch.cuda.device_count() + 1)
    outcome = train("--accelerator", "gpu", "--devices", asked, cwd=tmp_path)
    assert outcome.status == 2
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert list(tmp_path.iterdir()) == []


def saved(*flags: str, cwd: Path) -> Any:
    """The weights that a run has saved at its end."""
    cwd.mkdir(exist_ok=True)
    outcome = train(*flags, "--run_name", "run", cwd=cwd)
    assert outcome.status == 0, outcome.stderr
    (path,) = cwd.glob("lightning_logs/run*/checkpoints/last.ckpt")
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
