"""What is refused: one line, exit code 2, no process left, nothing written."""

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from typing_extensions import override

from lightning_app.cli import main
from lightning_app.cli.refusals import saves_at
from tests.documented import exit_code
from tests.train_to_end import train

ERRORS = {
    "--no_such_flag 1": "unrecognized arguments: --no_such_flag 1",
    "--strategy nope": "--strategy nope: it must be auto, ddp,",
    "--strategy dpp": "--strategy dpp: did you mean dp or ddp? It must be auto, ddp,",
    "--precision bf16-mix": "--precision bf16-mix: did you mean bf16-mixed or 16-mixed?",
    "--log_shapes Evry": "--log_shapes Evry: did you mean every? It must be every, change, off",
    "--devices atuo": "--devices atuo: did you mean auto? It must be a positive number",
    "--max_epochs inf": "--max_epochs inf: it must be int",
    "--devices 0": "--devices 0: it must be a positive number",
    "--devices -3": "--devices -3: it must be a positive number",
    "--devices abc": "--devices abc: it must be a positive number",
    "--accelerator xpu": "invalid accelerator name: `accelerator='xpu'`",
    "--data.batch_size 0": "batch_size is 0: it must be 1 or more",
    "--data.length 0": "length is 0: it must be 1 or more",
    "--data.input_size -2": "input_size is -2: it must be",
    "--data.noise_std -1": "noise_std is -1.0: it must be 0 or more",
    "--model.lr 0": "lr is 0.0: it must be more than 0",
    "--model.optimizer Nope": "optimizer is 'Nope': use one of",
    "--model.optimizer Optimizer": "optimizer is 'Optimizer': use one of",
    "--model.optimizer Muon": "optimizer is 'Muon': Muon only supports 2D parameters",
    "--config missing.yaml": "File does not exist",
    "--config broken.yaml": "Problems parsing config",
    "--config unknown.yaml": "does not accept option 'trainer.max_epoch'",
    "--model no.such.Class": "--model no.such.Class: No module named 'no'",
    "--model torch.nn.Linear": "not correspond to a subclass of LightningModule",
    "--ckpt_path missing.ckpt": "--ckpt_path missing.ckpt does not exist",
    "--ckpt_path broken.yaml": "--ckpt_path broken.yaml is not a whole checkpoint",
    "--ckpt_path last": "--ckpt_path last: no checkpoint in lightning_logs",
    "--max_epochs abc": "--max_epochs abc: it must be int",
    "--save_every_s 0": "--save_every_s 0: it must be a number above 0",
    "--steps_per_execution x": "--steps_per_execution x: it must be a whole number above 0",
    "--logger CSVLogger": "--logger: the following arguments are required: save_dir",
    "--plugins nope": "--plugins nope: it must be the path of a class or list",
    "--device 2": "--device is not a flag: did you mean --devices?",
    "--accumulate_grad_batches 0": "--accumulate_grad_batches 0: it must be 1 or more",
    "--val_check_interval 0": "--val_check_interval 0: it must be a number above 0",
    "--val_check_interval 99": "`val_check_interval` (99) must be less than or equal to",
    "--default_root_dir broken.yaml": "--default_root_dir broken.yaml: no folder can be made",
    "--data.seed -1": "seed is -1: it must be 0 or more",
    "--model.input_size 7": "--model.input_size: the data tells it; use --data.input_size",
    "--strategy single_device --devices 2 --accelerator cpu": "runs on one device, not on 2",
    "--strategy dp --num_nodes 2": "--strategy dp --num_nodes 2: replicas live in one process",
    "--strategy dp --sync_batchnorm --accelerator cpu": "--sync_batchnorm does nothing",
    "--compile nope": "--compile nope: it must be bool",
    "--virtual_ranks 0": "--virtual_ranks 0: it must be",
    "--virtual_ranks 2 --devices 3": "--virtual_ranks 2: 3 devices: at most 2 devices can share",
    "--virtual_ranks 4 --strategy dp": "--virtual_ranks with --strategy dp: it is for one device",
    "--virtual_ranks 4 --strategy fsdp": "--virtual_ranks with --strategy fsdp: it is for one dev",
    "--virtual_ranks 4 --compile": "--virtual_ranks and --compile: choose one of them",
    "--virtual_ranks 4 --data_on_device": "--virtual_ranks and --data_on_device: choose one of",
    "--virtual_ranks 4 --steps_per_execution 2": "--virtual_ranks and --steps_per_execution: choo",
    "--strategy dp --accelerator cpu --compile": "--compile: torch.compile cannot compile",
}


@pytest.mark.filterwarnings("default::DeprecationWarning")  # Lightning uses what is deprecated
@pytest.mark.parametrize("command", ERRORS)
def test_a_users_error_is_one_line(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.yaml").write_text("trainer:\n  max_epochs: [1,\n")
    (tmp_path / "unknown.yaml").write_text("trainer:\n  max_epoch: 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *command.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert ERRORS[command] in output.err
    assert output.err.count("\n") == 1
    assert output.err.startswith("train.py: error: ")
    assert output.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"broken.yaml", "unknown.yaml"}


REFUSED = {
    "--model no.such.Class --devices 2 --strategy ddp": "No module named 'no'",
    "--strategy ddp --devices 2 --sync_batchnorm": "--sync_batchnorm needs GPUs",
    "--strategy ddp --devices 2 --data tests.user_modules.Stream": "NumberStream is an Iterable",
    "--strategy ddp --devices 2 --val_check_interval 00:00:00:01": (
        "--val_check_interval by time: the clocks of 2 processes differ"
    ),
    "--strategy ddp --devices 2 --model.optimizer LBFGS": (
        "LBFGS decides by the loss, which differs between the 2 processes"
    ),
    "--strategy ddp --devices 2 --model tests.user_modules.LossForgotten": (
        "training_step returned no loss, and one of 2 processes cannot skip a step: "
        "return the loss times 0"
    ),
    "--strategy ddp --devices 2 --plain_steps --model tests.user_modules.LossForgotten": (
        "training_step returned no loss, and one of 2 processes cannot skip a step: "
        "return the loss times 0"
    ),
    "--strategy dp --devices 2 --model tests.user_modules.Functional": (
        "Functional.training_step calls no module that has parameters"
    ),
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_refused_run_ends_every_process_and_leaves_nothing(command: str, tmp_path: Path) -> None:
    outcome = train("--accelerator", "cpu", *command.split(), cwd=tmp_path)
    assert outcome.status == 2, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("error:") == 1
    assert REFUSED[command] in outcome.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_gpus_demanded_by_name_are_an_error_where_there_is_none(tmp_path: Path) -> None:
    if torch.cuda.device_count():
        pytest.skip("this machine has a GPU")
    outcome = train("--accelerator", "gpu", cwd=tmp_path)
    assert outcome.status == 2
    assert "PyTorch sees 0 GPUs" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


class OnOneRank(BoringModel):
    """Is refused on the second rank alone."""

    @override
    def on_train_start(self) -> None:
        if self.global_rank == 1:
            raise MisconfigurationException("only here")


class KeepsObjects(BoringModel):
    """Puts into its checkpoints what `weights_only` does not load."""

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classes"] = np.array(["cat", "dog"])


def test_a_later_rank_tells_what_it_alone_has_got(tmp_path: Path) -> None:
    flags = ("--strategy", "ddp", "--devices", "2", "--accelerator", "cpu")
    outcome = train("--model", f"{__name__}.OnOneRank", *flags, cwd=tmp_path)
    assert outcome.status == exit_code("what only one rank refuses")
    line = f"train.py: error: rank 1 on {socket.gethostname()}: only here"
    assert line in outcome.stderr.splitlines()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*flags: str) -> str:
        common = ("--model", f"{__name__}.KeepsObjects", "--accelerator", "cpu")
        monkeypatch.setattr(sys, "argv", ["train.py", *common, *flags])
        main()
        return ""

    run("--max_epochs", "1")
    assert capsys.readouterr().err.count("cannot be loaded with weights_only=True") == 1
    more = ("--max_epochs", "2", "--ckpt_path")
    torch.save({"state_dict": {}, "epoch": 1}, "another.ckpt")
    for path, line in {
        "last": "it holds numpy._core.multiarray._reconstruct, and such objects can run code when "
        "they are loaded: if you trust the file, add --weights_only false",
        "another.ckpt": "--ckpt_path another.ckpt: it has no 'pytorch-lightning_version': to use ",
    }.items():
        with pytest.raises(SystemExit):
            run(*more, path)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert line in error
    run(*more, "last", "--weights_only", "false")


def test_who_saves_alone_is_found(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, max_steps=0)

    def save() -> None:
        trainer.save_checkpoint(tmp_path / "mine.ckpt")  # without a model

    with pytest.raises(AttributeError) as caught:
        save()
    assert saves_at(caught.value) == f"trainer.save_checkpoint, by save of {__name__}"
    with pytest.raises(ZeroDivisionError) as other:
        _ = 1 / 0
    assert saves_at(other.value) == ""
