"""What the user asked for comes before what this project does by itself."""

import fcntl
import os
import pickle
import pty
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, TQDMProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_app import cli
from lightning_app.checkpoint.io import AtomicCheckpointIO, is_whole
from lightning_app.cli.command_line import CommandLine
from lightning_app.telemetry.dashboard import Dashboard, RunLogger
from lightning_app.telemetry.shapes import ShapeLogger
from tests.command import ROOT
from tests.runs import make_trainer

pytestmark = pytest.mark.filterwarnings("default")
BASE = ("--accelerator", "cpu", "--data.length", "60", "--data.val_length", "10")


class Bar(TQDMProgressBar):
    """A user's own bar."""


class OwnIO(TorchCheckpointIO):
    """Leaves a mark in what it writes."""

    @override
    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint | {"written by": "the user's own"}, path)


class Service(Logger):
    """Like those of tracking services: many runs in one `save_dir`, and no `log_dir`."""

    number = 0

    def __init__(self, folder: str | None = "runs") -> None:
        super().__init__()
        self.folder = folder
        Service.number += 1
        self.version = f"id{Service.number}"

    name = "project"
    version = ""

    @property
    @override
    def save_dir(self) -> str | None:
        return self.folder

    @override
    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


class Bringing(LightningModule):
    """Has loaders of its own, which the default data would fit as well."""

    def __init__(self, input_size: int = 5) -> None:
        super().__init__()
        self.input_size = input_size
        self.net = nn.Linear(5, 2)
        self.sums: list[float] = []

    @override
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.sums.append(float(batch[0].sum()))
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(20, 5), torch.ones(20, 2)), 10)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    kept: list[Any] = []
    instantiate = CommandLine.instantiate_classes

    def keep(self: CommandLine) -> None:
        kept.append(self)
        instantiate(self)

    monkeypatch.setattr(CommandLine, "instantiate_classes", keep)

    def call(*flags: str) -> Trainer:
        monkeypatch.setattr(sys, "argv", ["train.py", *flags])
        cli.main()
        trainer: Trainer = kept[-1].trainer
        return trainer

    return call


@pytest.mark.parametrize("bar", ["lightning.pytorch.callbacks.RichProgressBar", f"{__name__}.Bar"])
def test_the_users_bar_is_the_bar(bar: str, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bar.yaml").write_text(f"trainer:\n  callbacks:\n  - class_path: {bar}\n")
    trainer = run(*BASE, "--max_epochs", "1", "--config", "bar.yaml")
    bars = [c for c in trainer.callbacks if isinstance(c, ProgressBar)]
    assert [type(own).__name__ for own in bars] == [bar.rpartition(".")[2]]
    assert "Saved in ./lightning_logs/version_0. See:" in capsys.readouterr().out


def test_the_users_bar_is_the_bar_at_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "bar.yaml").write_text(
        "trainer:\n  callbacks:\n  - class_path: lightning.pytorch.callbacks.TQDMProgressBar\n"
    )
    flags = (*BASE, "--max_epochs", "1", "--config", "bar.yaml")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, str(ROOT / "train.py"), *flags])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # its end
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown.decode()
    assert "Epoch 0: 100%" in shown.decode()
    assert "━" not in shown.decode()


def test_the_users_summary_is_printed(run: Any) -> None:
    Path("c.yaml").write_text(
        "trainer:\n  callbacks:\n  - class_path: lightning.pytorch.callbacks.ModelSummary\n"
    )
    trainer = run(*BASE, "--max_epochs", "1", "--config", "c.yaml")
    assert sum(isinstance(callback, ModelSummary) for callback in trainer.callbacks) == 1


CONFIGS = {
    "none": "{}",
    "a plugin": f"{{plugins: {__name__}.OwnIO}}",
    "the strategy's": (
        "{strategy: {class_path: lightning_app.strategies.SingleDeviceStrategy, init_args: "
        f"{{checkpoint_io: {{class_path: {__name__}.OwnIO}}}}}}}}"
    ),
}


@pytest.mark.parametrize("chosen", CONFIGS)
def test_checkpoints_are_written_as_the_user_chose(chosen: str, run: Any, tmp_path: Path) -> None:
    Path("c.yaml").write_text(f"trainer: {CONFIGS[chosen]}\n")
    trainer = run(*BASE, "--max_epochs", "1", "--config", "c.yaml")
    assert type(trainer.strategy.checkpoint_io) is (
        AtomicCheckpointIO if chosen == "none" else OwnIO
    )
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True).get("written by") == (
        None if chosen == "none" else "the user's own"
    )


def test_a_model_without_data_is_told_of_random_ones(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "tests.user_modules.Submodule"
    run("--accelerator", "cpu", "--model", model, "--fast_dev_run")
    assert (
        f"No --data: {model} is given random data, 5 numbers a sample; " in capsys.readouterr().out
    )


def test_a_trainer_can_be_pickled_after_its_run(run: Any) -> None:
    trainer = run("--accelerator", "cpu", "--model", f"{__name__}.Bringing", "--max_epochs", "1")
    assert pickle.loads(pickle.dumps(trainer)).global_step == trainer.global_step == 2


def test_a_run_that_lightning_refuses_leaves_no_file(tmp_path: Path) -> None:
    model = BoringModel()
    model.automatic_optimization = False
    trainer = make_trainer(
        "single_device",
        1,
        gradient_clip_val=1.0,
        callbacks=[Dashboard(ShapeLogger())],
        logger=RunLogger(str(tmp_path)),
    )
    with pytest.raises(MisconfigurationException, match="gradient clipping"):
        trainer.fit(model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["flag", "config"])
@pytest.mark.parametrize(
    ("limit", "value", "steps"), [("max_steps", 25, 25), ("min_epochs", 0, 20)]
)
def test_ten_epochs_are_no_limit_of_steps(
    limit: str, value: int, steps: int, where: str, run: Any
) -> None:
    flags: tuple[str, ...] = (f"--{limit}", str(value))
    if limit == "min_epochs":
        flags = ()
    elif where == "config":
        Path("c.yaml").write_text(f"trainer: {{{limit}: {value}}}\n")
        flags = ("--config", "c.yaml")
    assert run(*BASE, *flags).global_step == steps  # an epoch has 2


def test_a_limit_of_time_is_obeyed(run: Any) -> None:
    trainer = run(*BASE, "--max_time", "00:00:00:03")
    assert trainer.current_epoch > 10


def test_the_models_own_loaders_are_taken(run: Any) -> None:
    trainer = run("--accelerator", "cpu", "--model", f"{__name__}.Bringing", "--max_epochs", "1")
    assert trainer.lightning_module.sums == [50, 50]
    given = (*BASE, "--data.input_size", "5")
    trainer = run(*given, "--model", f"{__name__}.Bringing", "--max_epochs", "1")
    assert len(trainer.lightning_module.sums) == 2
    assert trainer.lightning_module.sums != [50, 50]


def test_barebones_keeps_the_users_callbacks(run: Any) -> None:
    Path("c.yaml").write_text(
        "trainer:\n  callbacks:\n  - class_path: lightning.pytorch.callbacks.LambdaCallback\n"
    )
    trainer = run(*BASE, "--max_epochs", "1", "--barebones", "--config", "c.yaml")
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert names == ["LambdaCallback", "Beginning"]


LOGGERS = {
    "csv": ("--logger", "CSVLogger", "--logger.save_dir", "other", "--logger.name", "a"),
    "service": ("--logger", f"{__name__}.Service"),
    "no save_dir": ("--logger", f"{__name__}.Service", "--logger.folder", "null"),
    "none": ("--logger", "false"),
}


@pytest.mark.parametrize("logger", LOGGERS)
def test_each_run_keeps_its_own_last_checkpoint(
    logger: str, run: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = (*BASE, *LOGGERS[logger])
    for epochs in ("1", "2"):
        run(*flags, "--max_epochs", epochs)
    kept = sorted(tmp_path.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    steps = [torch.load(path, weights_only=True)["global_step"] for path in kept]
    assert steps == [2, 4]
    assert len(list(tmp_path.rglob("checkpoints"))) == (1 if logger == "none" else 2)
    capsys.readouterr()
    assert run(*flags, "--max_epochs", "3", "--ckpt_path", "last").global_step == 6
    assert f"From {kept[-1].relative_to(tmp_path)}\n" in capsys.readouterr().out
    run("test", *flags, "--ckpt_path", "best")
    assert "best-epoch=2.ckpt" in capsys.readouterr().out


def test_a_remote_folder_is_no_local_one(run: Any, tmp_path: Path) -> None:
    flags = (*BASE, "--default_root_dir", "memory://remote")
    run(*flags, "--max_epochs", "1")
    assert run(*flags, "--max_epochs", "2", "--ckpt_path", "last").global_step == 4
    run("predict", *flags, "--ckpt_path", "best")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_shards_is_whole_when_its_last_file_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "last.ckpt"
    folder.mkdir()
    assert not is_whole(folder)
    (folder / "meta.pt").touch()
    assert is_whole(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + b"\xff" * 18])
def test_a_broken_file_is_not_whole(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    assert not is_whole(tmp_path / "last.ckpt")
    assert not is_whole(tmp_path / "missing.ckpt")
