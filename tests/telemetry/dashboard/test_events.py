"""What a run writes, read back with TensorBoard's own reader, under every layout."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lightning_app.callbacks import callbacks
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.strategies import SingleDeviceStrategy
from lightning_app.telemetry.dashboard.card import run_card, splits_table
from lightning_app.telemetry.dashboard.charts import charts
from lightning_app.telemetry.dashboard.logger import RunLogger
from lightning_app.telemetry.dashboard.pictures import (
    COLORS,
    MARGIN_LEFT,
    MARGIN_RIGHT,
    MARGIN_TOP,
    MAX_ROWS,
    ROW_HEIGHT,
    WIDTH,
    who_got_what,
)
from lightning_app.telemetry.dashboard.throughput import device_use
from tests.command import ROOT
from tests.events import scalars
from tests.train_to_end import train

LAYOUTS = {
    1: ("--devices", "1"),
    2: ("--devices", "2", "--strategy", "ddp"),
    3: ("--devices", "3", "--strategy", "dp"),
}
COMMON = {
    "batch_size/global",
    "batch_size/last",
    "train/loss",
    "train/loss_step",
    "val/loss",
    "val/mae",
    "val/r2",
    "workload/samples_per_s",
    "workload/data_wait_share",
    *(f"at_epoch_end/{name}" for name in ("train/loss", "val/loss", "val/mae", "val/r2")),
}


def run(folder: Path, ranks: int, *more: str) -> dict[str, dict[int, float]]:
    flags = (*LAYOUTS[ranks], "--accelerator", "cpu", "--data.length", "100", *more)
    outcome = train(*flags, cwd=folder)
    assert outcome.status == 0, outcome.stderr
    return scalars(folder / "lightning_logs" / "version_0")  # steps in order, none twice


def assert_tags(curves: dict[str, dict[int, float]], ranks: int) -> None:
    assert curves.keys() == COMMON | {f"batch_size/rank_{r}" for r in range(ranks)}


# Tags of runs with many ranks, GPUs, or a broken coverage: other tests see those that can be seen.
OF_SOME_RUNS = {
    *(f"batch_size/rank_{which}" for which in ("min", "max")),
    *(f"coverage/{what}" for what in ("missing", "repeated")),
    *(f"workload/gpu_k_{what}" for what in ("memory_mib", "utilization_percent")),
}


def test_the_page_in_docs_has_the_tags_that_are_written() -> None:
    page = (ROOT / "docs" / "dashboard.md").read_text()
    rows = page[page.index("| tag |") :].partition("\n\n")[0].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r"`(.+?)`", row.split("|")[1])]
    assert len(named) > 10
    written = COMMON | {"batch_size/rank_0"}
    found = {
        name: {tag for tag in written if re.fullmatch(_as_pattern(name), tag)} for name in named
    }
    assert set().union(*found.values()) == written
    assert {name for name, tags in found.items() if not tags} == OF_SOME_RUNS


def _as_pattern(name: str) -> str:
    return re.sub(r"_k\b", r"_\\d+", name).replace("…", ".+")


@pytest.mark.parametrize("ranks", LAYOUTS)
def test_a_run_and_its_continuation(ranks: int, tmp_path: Path) -> None:
    curves = run(tmp_path, ranks, "--max_epochs", "2")
    assert_tags(curves, ranks)
    assert list(curves["val/loss"]) == list(curves["train/loss"]) == [3, 7]
    assert list(curves["train/loss_step"]) == [0]
    assert curves["at_epoch_end/train/loss"] == curves["train/loss"]
    assert curves["at_epoch_end/val/loss"] == curves["val/loss"]
    assert 0 < curves["workload/data_wait_share"][3] < 1
    assert curves["workload/samples_per_s"][3] > 0
    longer = run(tmp_path, ranks, "--max_epochs", "4", "--ckpt_path", "last")
    assert_tags(longer, ranks)
    # Of each epoch's 30 + 30 + 30 + 10. Smoothed, each of the curves is what it is.
    usual = {step: 30.0 for step in range(16) if step % 4 in (0, 2)}
    assert longer["batch_size/global"] == usual
    assert longer["batch_size/last"] == dict.fromkeys((3, 7, 11, 15), 10.0)
    sizes = [longer[f"batch_size/rank_{rank}"] for rank in range(ranks)]
    assert [sum(split) for split in zip(*(s.values() for s in sizes), strict=True)] == [30.0] * 8
    assert list(longer["val/loss"]) == [3, 7, 11, 15]
    for tag, curve in curves.items():
        assert curve.items() <= longer[tag].items(), tag
    assert len(list((tmp_path / "lightning_logs").iterdir())) == 1


def test_ten_thousand_steps_on_eight_ranks_stay_small(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    sizes = {"batch_size/global": 30.0} | {f"batch_size/rank_{r}": 4.0 for r in range(8)}
    for step in range(10_000):
        logger.log_metrics(sizes, step)
        if step % 50 == 49:
            logger.log_metrics({"train/loss": 0.5}, step)
            logger.log_metrics({"workload/samples_per_s": 8000.0}, step)
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
    lost = RunLogger(str(tmp_path), "version_0", continues=True)
    lost.experiment.add_text("never", "saved")
    lost.finalize("failed")
    time.sleep(1.1)
    again = RunLogger(str(tmp_path), "version_0", continues=True)
    again.log_metrics({"a": 3.0}, 1)
    again.rewind(position)
    again.finalize("success")
    assert scalars(Path(again.log_dir)) == {"a": {0: 1.0, 1: 3.0}}


def hyperparameters(events: EventAccumulator) -> Any:
    """A run's row in the table of hyperparameters."""
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    return HParamsPluginData.FromString(content).session_start_info.hparams


@pytest.mark.filterwarnings("default")
def test_what_is_no_curve(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks(checkpoints=False),
        strategy=SingleDeviceStrategy(),
        max_epochs=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = LinearModule(log_shapes="off")
    model.hparams[0] = "cat"  # of an index by numbers
    trainer.fit(model, RandomDataModule(length=100))
    events = EventAccumulator(logger.log_dir).Reload()
    tags = events.Tags()
    assert not [tag for tag in tags["scalars"] if tag.startswith(("coverage", "epoch"))]
    # The page takes the columns of one run's `experiment` for all runs: there shall be none.
    assert hyperparameters(events)["0"].string_value == "cat"
    assert "_hparams_/experiment" not in events.PluginTagToContent("hparams")
    assert [image.step for image in events.Images("who_got_what")] == [3, 7]
    texts = {
        tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in events.PluginTagToContent("text")
    }
    assert texts.keys() == {"run", "splits"}
    assert "| not split | 10 | 3 to 7 | 2 |" in texts["splits"]
    proof = "Each of 2 epochs visited every sample of its plan once."
    assert texts["splits"].endswith(proof)
    assert "none" not in texts["run"]
    assert "not installed" not in texts["run"]


def test_the_table_has_the_optimizer_in_effect(tmp_path: Path) -> None:
    """Which is not the model's own, whose `lr` is among its hyperparameters."""
    flags = ("--accelerator", "cpu", "--max_epochs", "1", "--data.length", "60")
    assert train(*flags, "--optimizer", "AdamW", "--optimizer.lr", "0.01", cwd=tmp_path).status == 0
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0")).Reload()
    row = hyperparameters(events)
    assert (row["optimizer"].string_value, row["lr"].number_value) == ("AdamW", 0.01)


def test_a_run_without_curves_leaves_none(tmp_path: Path) -> None:
    def logger() -> RunLogger:
        made = RunLogger(str(tmp_path))
        made.log_hyperparams({})
        made.experiment.flush()
        return made

    nothing = logger()
    nothing.leave_no_empty_run()
    assert list(tmp_path.iterdir()) == []
    predicts = logger()
    predictions = Path(predicts.log_dir, "predictions.pt")
    predictions.touch()
    predicts.leave_no_empty_run()
    assert list(Path(predicts.log_dir).iterdir()) == [predictions]
    shows = logger()
    shows.experiment.add_text("a", "user's own")
    shows.leave_no_empty_run()
    assert len(list(Path(shows.log_dir).glob("events*"))) == 1


def matches(layout: dict[str, dict[str, Any]], tags: list[str]) -> dict[str, list[str]]:
    """The tags that each chart shows."""
    return {
        f"{category}: {title}": [tag for tag in tags if re.match(chart[1][0], tag)]
        for category, entries in layout.items()
        for title, chart in entries.items()
    }


def test_charts_show_what_is_logged_whatever_its_name() -> None:
    tags = ["train/loss", "train/loss_step", "val_loss", "val_acc", "train_f1", "batch_size/global"]
    tags += [
        "workload/samples_per_s",
        "epoch",
        "lr-SGD",
        "temperature",
        "test_loss",
        "at_epoch_end/val_loss",
        "train_f1_step",
    ]
    tags += ["valid/cross_entropy", "val_loss_step", "train_loss_epoch", "acc/train", "valid/Top1"]
    tags += ["valid/ppl", "val/f1_epoch", "test/f1/dataloader_idx_0", "train_acc_top5", "validity"]
    tags += ["val_ce", "train_loss"]
    losses = ["train/loss", "val_loss", "test_loss", "valid/cross_entropy", "train_loss_epoch"]
    assert matches(charts(tags), tags) == {
        "Loss: each epoch": [*losses, "val_ce", "train_loss"],
        "Loss: single steps": ["train/loss_step", "val_loss_step"],
        "Metrics: Top1": ["valid/Top1"],
        "Metrics: acc": ["val_acc", "acc/train"],
        "Metrics: acc_top5": ["train_acc_top5"],
        "Metrics: f1": ["train_f1", "val/f1_epoch", "test/f1/dataloader_idx_0"],
        "Metrics: ppl": ["valid/ppl"],
        "Metrics: temperature": ["temperature"],
        "Metrics: validity": ["validity"],
        "Workload: samples per second": ["workload/samples_per_s"],
    }
    # A chart is the same in all runs: the page then shows it once.
    few = charts(["train/loss", "test_acc"])
    assert few["Loss"] == {"each epoch": charts(tags)["Loss"]["each epoch"]}
    assert few["Metrics"] == {"acc": charts(tags)["Metrics"]["acc"]}


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


def test_the_picture_draws_a_split_once() -> None:
    picture = who_got_what({(15, 15): 33, (5, 5): 1})
    assert picture.shape[1] == WIDTH  # as the page shows it
    row = picture[MARGIN_TOP + 3]  # above the numbers in the bar
    lengths = [int((row == color).all(1).sum()) for color in COLORS[:2]]
    assert abs(lengths[0] - lengths[1]) <= 1
    assert sum(lengths) == pytest.approx(WIDTH - MARGIN_LEFT - MARGIN_RIGHT, abs=4)
    short = picture[MARGIN_TOP + ROW_HEIGHT + 3]
    assert int((short == COLORS[0]).all(1).sum()) == pytest.approx(lengths[0] / 3, abs=2)
    many = who_got_what({(n,): 1 for n in range(1, 100)})
    assert many.shape[0] == MARGIN_TOP + ROW_HEIGHT * (MAX_ROWS + 1)


def test_the_use_of_a_gpu_is_told_in_mib_and_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 80)
    assert device_use(torch.device("cuda", 1)) == {
        "workload/gpu_1_memory_mib": 3.0,
        "workload/gpu_1_utilization_percent": 80.0,
    }
    assert device_use(torch.device("cpu")) == {}

    def refuse(device: torch.device) -> int:
        raise RuntimeError("not of a part of a GPU")

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert device_use(torch.device("cuda", 1)) == {}
