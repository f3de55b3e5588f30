"""An epoch's mean loss is over all of it, also where a run ended within it and went on."""

from pathlib import Path

import pytest

from tests.in_process import InProcess

pytestmark = pytest.mark.filterwarnings("default")  # Lightning uses what is deprecated


def test_after_max_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = InProcess(tmp_path, monkeypatch, capsys)
    flags = ("--data.length", "300", "--max_epochs", "2")
    cut = run(*flags, "--max_steps", "13")
    continued = run(*flags, "--ckpt_path", "last")
    whole = run(*flags, "--default_root_dir", str(tmp_path / "whole"))
    assert cut.stdout.count("epoch 2/2  step 13") == 1
    expected, found = (
        next(line for line in each.stdout.splitlines() if line.startswith("epoch 2/2  step 20"))
        for each in (whole, continued)
    )
    assert found == expected
