"""A checkpoint that tests look at, spoil or continue."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from lightning_app.checkpoint.io import load
from lightning_app.cli import main


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real one, in mid-epoch, of Adam."""
    folder = tmp_path_factory.mktemp("run")
    flags = "--max_steps 5 --model.optimizer Adam --accelerator cpu --data.length 300"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")  # Lightning uses what is deprecated
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py", *flags.split()])
        main()
    return folder / "lightning_logs/version_0/checkpoints/last.ckpt"


@pytest.fixture(scope="session")
def content(checkpoint: Path) -> Any:
    return load(checkpoint, weights_only=True)
