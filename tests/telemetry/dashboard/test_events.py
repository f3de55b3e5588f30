"""What a run writes, read back with TensorBoard's own reader, under every layout."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_app.telemetry.dashboard.card import run_card, splits_table
from lightning_app.telemetry.dashboard.charts import charts
from lightning_app.telemetry.dashboard.logger import RunLogger
from lightning_app.telemetry.dashboard.pictures import MAX_WIDTH, who_got_what
from lightning_app.telemetry.dashboard.throughput import device_use
from tests.events import scalars
from tests.forking import train

LAYOUTS = {
    1: ("--devices", "1"),
    2: ("--devices", "2", "--strategy", "ddp"),
    3: ("--devices", "3", "--strategy", "dp"),
}
COMMON = {
    "batch_size/global",
    "train/loss",
    "val/loss",
    "val/mae",
    "val/r2",
    "epoch",
    "coverage/missing",
    "coverage/repeated",
    "throughput/samples_per_s",
    "throughput/data_wait_share",
}


def run(folder: Path, ranks: int, *more: str) -> dict[str, dict[int, float]]:
    flags = (*LAYOUTS[ranks], "--accelerator", "cpu", "--data.length", "100", *more)
    outcome = train(*flags, cwd=folder)
    assert outcome.status == 0, outcome.stderr
    return scalars(folder / "lightning_logs" / "version_0")  # steps in order, none twice


def assert_tags(curves: dict[str, dict[int, float]], ranks: int) -> None:
    by_rank = {
        f"{kind}_{r}" for kind in ("batch_size/rank", "throughput/rank") for r in range(ranks)
    }
    assert curves.keys() == COMMON | by_rank


@pytest.mark.parametrize("ranks", LAYOUTS)
def test_a_run_and_its_continuation(ranks: int, tmp_path: Path) -> None:
    curves = run(tmp_path, ranks, "--max_epochs", "2")
    assert_tags(curves, ranks)
    assert list(curves["val/loss"]) == [3, 7]
    assert 0 < curves["throughput/data_wait_share"][3] < 1
    rates = [curves[f"throughput/rank_{rank}"][3] for rank in range(ranks)]
    assert curves["throughput/samples_per_s"][3] == pytest.approx(sum(rates), rel=1e-5)
    longer = run(tmp_path, ranks, "--max_epochs", "4", "--ckpt_path", "last")
    assert_tags(longer, ranks)
    assert list(longer["batch_size/global"]) == list(range(16))
    assert list(longer["val/loss"]) == [3, 7, 11, 15]
    for tag, curve in curves.items():
        assert curve.items() <= longer[tag].items(), tag
    assert len(list((tmp_path / "lightning_logs").iterdir())) == 1


def test_ten_thousand_steps_on_eight_ranks_stay_small(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    sizes = {"batch_size/global": 30.0} | {f"batch_size/rank_{r}": 4.0 for r in range(8)}
    rates = {f"throughput/rank_{r}": 1000.0 for r in range(8)}
    for step in range(10_000):
        logger.log_metrics(sizes, step)
        if step % 50 == 49:
            logger.log_metrics({"train/loss": 0.5}, step)
            logger.log_metrics(rates | {"throughput/samples_per_s": 8000.0}, step)
    total = sum(logger.position().values())
    logger.finalize("success")
    assert 1_000_000 < total < 5_000_000


def test_rewinding_cuts_what_came_after(tmp_path: Path) -> None:
    first = RunLogger(str(tmp_path))
    first.log_metrics({"a": 1.0}, 0)
    position = first.position()
    first.log_metrics({"a": 2.0}, 1)
    first.finalize("failed")
    time.sleep(1.1)  # files are read in the order of their names, which count seconds
    lost = RunLogger(str(tmp_path), "version_0")
    lost.experiment.add_text("never", "saved")
    lost.finalize("failed")
    time.sleep(1.1)
    again = RunLogger(str(tmp_path), "version_0")
    again.log_metrics({"a": 3.0}, 1)
    again.rewind(position)
    again.finalize("success")
    assert scalars(Path(again.log_dir)) == {"a": {0: 1.0, 1: 3.0}}


def test_charts_fit_the_number_of_ranks() -> None:
    lines = charts(3)["Batch split"]["samples in a step"][1]
    tags = ["global", "rank_0", "rank_1", "rank_2"]
    assert lines == [f"^batch_size/{tag}$" for tag in tags]


def test_the_card_tells_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/train.py", "fit", "--devices", "2"])
    card = run_card("2 CPU processes, ddp", ["A CPU", "A CPU"], seed=7)
    assert "| command | `python train.py fit --devices 2` |" in card
    assert f"| torch | {torch.__version__} |" in card
    assert "| seed | 7 |" in card
    assert splits_table({(15, 15): (0, 8, 8), (5, 5): (3, 7, 2)}).splitlines()[2:] == [
        "| 15 + 15 | 30 | 0 to 8 | 8 |",
        "| 5 + 5 | 10 | 3 to 7 | 2 |",
    ]


@pytest.mark.parametrize(("steps", "ranks"), [(1, 1), (34, 2), (5000, 8)])
def test_the_picture_shows_sizes_as_colours(steps: int, ranks: int) -> None:
    sizes = np.full((steps, ranks), 10)
    sizes[-1, -1] = 2
    picture = who_got_what(sizes, 0)
    assert picture.shape[1] <= MAX_WIDTH
    colors: Sequence[tuple[int, ...]] = [tuple(c) for c in picture.reshape(-1, 3)]
    full, fifth = (8, 69, 148), (179, 202, 227)
    assert full in colors
    assert (fifth in colors) == (1 < steps < 100)  # thousands of columns are thinned out


def test_the_use_of_a_gpu_is_told_in_mib_and_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 80)
    assert device_use(torch.device("cuda", 1)) == {
        "device/memory_mib/gpu_1": 3.0,
        "device/utilization_percent/gpu_1": 80.0,
    }
    assert device_use(torch.device("cpu")) == {}

    def refuse(device: torch.device) -> int:
        raise RuntimeError("not of a part of a GPU")

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert device_use(torch.device("cuda", 1)) == {}
