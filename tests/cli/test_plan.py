"""`train.py plan`: hardware that is not here, and one rank of it."""

from pathlib import Path

import pytest

from lightning_app.cli import main
from lightning_app.cli.plan import without_places

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
    main(["plan", *SIZES, "--optimizer", "AdamW"])
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


@pytest.mark.parametrize("flags", [("--rank", "8", "--devices", "8"), ("--num_nodes", "0")])
def test_what_is_not_a_plan_is_one_line(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", *flags])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"train.py: error: {flags[0]} {flags[1]}: ")


@pytest.mark.parametrize("flags", [("--virtual_ranks", "8"), ("--strategy", "dp")])
def test_what_is_not_planned_is_one_line(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", *flags])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("train.py: error: plan: it is for ddp")


def test_what_the_launcher_tells_is_left_out_of_the_command() -> None:
    given = (
        "--devices 8 --data.length 5 --num_nodes=4 --trainer.strategy ddp --fast_dev_run --rank 3"
    )
    assert without_places(given.split()) == ["--data.length", "5", "--fast_dev_run"]
