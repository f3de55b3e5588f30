"""What a person sees while it trains: on the bar, and line by line."""

import re
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar, TQDMProgressBar
from rich.progress import Progress
from torch import Tensor
from torch.nn.functional import mse_loss
from typing_extensions import override

from lightning_app.model import LinearModule
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.telemetry import progress
from lightning_app.telemetry.console import Console
from lightning_app.telemetry.coverage import Coverage
from lightning_app.telemetry.dashboard import RunLogger
from lightning_app.telemetry.metrics import in_order
from lightning_app.telemetry.progress import RunProgress
from tests.events import chart_patterns, scalars
from tests.runs import fit

pytestmark = pytest.mark.filterwarnings("default")


class Watched(RunProgress):
    """Notes what each of its updates shows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self.as_steps_began: list[str] = []

    @override
    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_batch_start(trainer, *args)
        self.as_steps_began.append(self.whole_run(self.train_progress_bar)[:7])

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        if self.train_progress_bar_id is not None:
            task = self.train_progress_bar
            self.seen.append((self.what(task), self.whole_run(task), shown))
        return shown


class OnTheBar(LinearModule):
    """Shows a value of its own."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = mse_loss(self(batch[0]), batch[1])
        self.log("own", 7.0, prog_bar=True)
        return loss


def train(bar: Any, folder: Path, **flags: Any) -> None:
    callbacks = [Coverage(), Console(), bar, *flags.pop("more", [])]
    model = OnTheBar(log_shapes="off")
    more: dict[str, Any] = {"max_epochs": 2, "logger": False, "default_root_dir": folder} | flags
    fit("single_device", 1, model, callbacks=callbacks, enable_progress_bar=True, **more)


def test_the_bar_shows_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    bar = Watched()
    train(bar, tmp_path)
    whats, runs, metrics = zip(*bar.seen, strict=True)
    assert dict.fromkeys(whats) == {"epoch 1/2": None, "epoch 2/2": None}
    assert runs[0].startswith(("run 12%", "run 00:00"))  # of 2 times 4 batches
    assert bar.as_steps_began[1:4] == ["run 12%", "run 25%", "run 38%"]
    assert runs[-1] == "run 100%, 00:00 left"
    assert metrics[0].keys() == {"own", "train/loss"}  # from the first step on
    assert metrics[-1]["own"] == 7
    assert list(metrics[-1])[:3] == ["own", "train/loss", "val/loss"]
    assert not {"v_num", "coverage/missing"} & metrics[-1].keys()
    lines = [line for line in capsys.readouterr().out.splitlines() if " step " in line]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert lines[1].split("  ")[2].startswith("train/loss ")
    assert "coverage" not in lines[1]  # nothing is missing
    assert "own" not in lines[1]  # it is the last step's, and would stand beside the epoch's means


class Seldom(OnTheBar):
    """Logs something in the first epoch alone, and a loss of single steps."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = super().training_step(batch)
        self.log("train_ce", loss)
        if self.current_epoch == 0:
            self.log("first", loss, on_step=True, on_epoch=True)
        return loss


def test_an_epochs_line_has_what_the_epoch_has_brought(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(
        "single_device",
        1,
        Seldom(log_shapes="off"),
        callbacks=[LearningRateMonitor("epoch"), Console()],
        log_every_n_steps=1,
        logger=RunLogger(str(tmp_path)),
        max_epochs=4,
        check_val_every_n_epoch=2,
        num_sanity_val_steps=1,
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    names = [re.findall(r"  ([a-zA-Z/0-9-]+) ", line)[1:] for line in lines]
    validated = ["train/loss", "val/loss", "val/mae", "val/r2", "lr-SGD"]
    others = ["train/loss", "lr-SGD"]
    assert names == [["train/loss", "first", "lr-SGD"], validated, others, validated]
    curves = scalars(tmp_path / "lightning_logs" / "version_0")
    assert list(curves["at_epoch_end/first"]) == [3]
    assert list(curves["at_epoch_end/val/loss"]) == [7, 15]
    assert list(curves["at_epoch_end/train/loss"]) == [3, 7, 11, 15]
    charts = chart_patterns(tmp_path / "lightning_logs" / "version_0")
    shown = {name: [t for t in curves if re.match(charts[name], t)] for name in list(charts)[:2]}
    assert shown == {
        "each epoch": ["train_ce", "train/loss", "val/loss"],  # by names alone
        "single steps": ["train/loss_step"],
    }


def test_the_bar_comes_to_its_end_by_executions_of_several_steps(tmp_path: Path) -> None:
    bar = Watched()
    train(bar, tmp_path, max_epochs=1, more=[StepsPerExecution(4)])
    assert bar.train_progress_bar.completed == bar.train_progress_bar.total == 4


def test_a_narrow_terminal_gets_what_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(progress, "_time", lambda seconds: "1:23:45")
    bar = Watched()
    train(bar, tmp_path, max_epochs=100, max_steps=4, log_every_n_steps=1)
    assert bar.seen[-1][2].keys() == {"own", "train/loss"}
    assert bar.progress is not None
    drawn = bar.progress.console.render_lines(bar.progress.get_renderable())
    [line] = ["".join(part.text for part in line).rstrip() for line in drawn]
    whole = r"epoch 2/100 ━{10} 4/4 run 100%, 1:23:45 left own: 7.000 train/loss: [\d.]+"
    assert re.fullmatch(whole, line)


def test_the_lines_come_with_any_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(TQDMProgressBar(), tmp_path, max_epochs=1)
    assert capsys.readouterr().out.count("epoch 1/1  step 4  train/loss ") == 1


def test_values_are_in_the_order_in_which_they_matter() -> None:
    doubles, last = ["f1_step", "f1_epoch"], ["f1", "lr-SGD", "coverage/missing"]
    names = [*last[1:], "val_acc", "val_loss", "val_ce", "f1", *doubles, "train/loss"]
    assert in_order(names) == ["train/loss", "val_loss", "val_ce", "val_acc", *last]
    assert in_order(["train/loss", "f1", "train_loss"]) == ["train_loss", "f1"]  # one of the two


def test_the_bar_is_not_drawn_while_a_line_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    bar, drawn = RunProgress(), []
    bar.progress = drawing = Progress()  # type: ignore[assignment]

    def draw() -> None:
        drawn.append(drawing.live._lock.acquire(timeout=0.1))

    def note(*args: Any, **kwargs: Any) -> None:
        thread = Thread(target=draw)
        thread.start()
        thread.join()

    monkeypatch.setattr(ProgressBar, "print", note)
    bar.print("a line")
    assert drawn == [False]
