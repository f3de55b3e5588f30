"""`train.py plan`: hardware that is not here, and one rank of it."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, DistributedSampler, SubsetRandomSampler, TensorDataset

from lightning_app.cli import main
from lightning_app.cli.plan import plan_of, without
from lightning_app.model import LinearModule
from lightning_app.telemetry.plan import lines

SIZES = (
    "--devices",
    "8",
    "--num_nodes",
    "128",
    "--data.batch_size",
    "5000",
    "--data.length",
    "20011",
)


pytestmark = pytest.mark.filterwarnings("default")  # Lightning uses what is deprecated


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_plan_tells_sizes_memory_and_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    began_s = time.process_time()
    main(["plan", *SIZES, "--optimizer", "AdamW"])
    assert time.process_time() - began_s < 3  # beyond what it takes to load Lightning
    told = capsys.readouterr().out.splitlines()
    assert told[:4] == [
        "1024 ranks: 128 hosts × 8",
        "global batch 5000 = 5 on ranks 0 to 903, 4 on ranks 904 to 1023",
        "an epoch: 5 steps, 20011 samples",
        "its last batch 11 = 1 on ranks 0 to 10, 0 on ranks 11 to 1023",
    ]
    assert told[4].endswith(
        "weights 48 bytes, gradients 48 bytes, DDP's buckets for them 48 bytes, AdamW 96 bytes"
    )
    assert told[5].startswith("start it: torchrun --nnodes 128 --nproc-per-node 8 ")
    assert told[5].endswith("train.py --data.batch_size 5000 --data.length 20011 --optimizer AdamW")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rank", "got"),
    [(0, "samples 0 to 4"), (903, "samples 4515 to 4519"), (1023, "samples 4996 to 4999")],
)
def test_one_rank_of_a_large_run(rank: int, got: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", *SIZES, "--rank", str(rank)])
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"rank {rank} of 1024: {got} of a global batch of 5000; 1 step done"
    )


@pytest.mark.parametrize(
    "flags",
    [("--rank", "8", "--devices", "8"), ("--num_nodes", "0"), ("--accumulate_grad_batches", "0")],
)
def test_what_is_not_a_plan_is_one_line(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", *flags])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"train.py: error: {flags[0]} {flags[1]}: ")


@pytest.mark.parametrize("flags", [("--virtual_ranks", "8"), ("--strategy", "fsdp")])
def test_what_is_not_planned_is_one_line(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", *flags])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("train.py: error: plan: it is for ddp")


def test_what_the_launcher_tells_is_left_out_of_the_command() -> None:
    given = "--devices 8 --data.length 5 --trainer.num_nodes=4 --fast_dev_run --rank 3"
    left = without(("--devices", "--num_nodes", "--rank"), given.split())
    assert left == ["--data.length", "5", "--fast_dev_run"]


def told_of(flags: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    main(["plan", "--data.length", "100", "--data.batch_size", "30", *flags.split()])
    return capsys.readouterr().out.splitlines()


def test_a_plan_goes_by_the_trainers_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = "--accumulate_grad_batches 2 --limit_train_batches 0.75 --precision 64-true --devices 2"
    told = told_of(flags, capsys)
    assert told[1:4] == [
        "global batch 30 = 15 on each rank",
        "an epoch: 2 steps of 3 batches, 90 samples",
        "memory of each rank, without activations: weights 96 bytes, gradients 96 bytes, DDP's "
        "buckets for them 96 bytes, SGD 0 bytes",
    ]
    command = f"--data.length 100 --data.batch_size 30 {flags}"
    assert told[4] == f"start it: python train.py {command}"
    monkeypatch.setattr("sys.argv", ["/usr/bin/train-any"])
    told = told_of("--num_nodes 2 --accelerator cpu --fast_dev_run --rank 1 --devices 2", capsys)
    assert told[-1].startswith("rank 1 of 4: samples 8 to 15 of a global batch of 30; ")
    told = told_of("--num_nodes 2 --accelerator cpu --fast_dev_run --devices 2", capsys)
    assert "an epoch: 1 step, 30 samples" in told
    starts = next(line for line in told if line.startswith("start it: torchrun --nnodes 2 "))
    assert starts.endswith(
        " --no-python train-any --data.length 100 --data.batch_size 30 --accelerator cpu "
        "--fast_dev_run"
    )


class Own:
    """A source of one loader."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.train_dataloader = lambda: loader

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None: ...


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampler": SubsetRandomSampler(range(7)), "batch_size": 5}, (5, 2, 7)),
        ({"batch_size": 3, "drop_last": True}, (3, 6, 18)),
        ({"batch_sampler": [[0, 1], [2]]}, (None, 2, None)),
        ({"batch_size": 64}, (20, 1, 20)),
    ],
)
def test_a_plan_counts_what_the_sampler_gives(
    options: dict[str, Any], expected: tuple[int | None, int, int | None]
) -> None:
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.zeros(20, 5)), **options)
    asked = SimpleNamespace(num_nodes=1, precision=None, accumulate_grad_batches=1)
    vars(asked).update(fast_dev_run=False, overfit_batches=0.0, limit_train_batches=None)
    plan = plan_of(LinearModule(5, 2), Own(loader), 2, asked, "")
    assert (plan.batch_size, plan.num_batches, plan.num_samples) == expected
    assert list(lines(plan))


def test_a_loader_that_is_split_twice_is_not_planned() -> None:
    data = TensorDataset(torch.zeros(20, 5))
    sampler: Any = DistributedSampler(data, num_replicas=2, rank=0)
    loader: DataLoader[Any] = DataLoader(data, sampler=sampler)
    with pytest.raises(MisconfigurationException, match="split twice"):
        plan_of(LinearModule(5, 2), Own(loader), 2, SimpleNamespace(precision=None), "")
