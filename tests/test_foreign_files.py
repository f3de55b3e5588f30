"""Files of others run no program, move no cursor, and lead to no other place."""

import json
import subprocess
from pathlib import Path

import pytest

from lightning_app.checkpoint.io import AtomicCheckpointIO
from lightning_app.doctor.__main__ import main as doctor
from lightning_app.errors import one_line
from lightning_app.telemetry.dashboard.card import git_commit


def test_a_checkpoint_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / ".last.ckpt.unfinished").symlink_to(precious)
    (tmp_path / "last.ckpt").symlink_to(precious)
    AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "last.ckpt")
    assert precious.read_text() == "precious"
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt") == {"a": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "last.ckpt"}


def _git(folder: Path, *args: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True, timeout=20)


def test_a_folders_git_configuration_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "folder", tmp_path / "has run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    _git(folder, "init")
    (folder / "file").write_text("a")
    _git(folder, "add", "file")
    _git(folder, "commit", "-m", "a")
    plain = git_commit()
    assert plain is not None
    (folder / "file").write_text("another")
    _git(folder, "config", "core.fsmonitor", f"touch '{mark}'; false")
    assert git_commit() == f"{plain} with changes"
    assert not mark.exists()
    (folder / ".gitattributes").write_text("file filter=evil")
    _git(folder, "config", "filter.evil.clean", f"touch '{mark}'; cat")
    (folder / "file").write_text("ather")  # of the same length: git has to read it
    assert git_commit() == plain
    assert not mark.exists()


def test_facts_of_others_are_no_commands_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "GPU\x1b]0;title\x07\x1b[2J\x9b31m\u202e\r"
    facts = {
        "source": evil,
        "system": evil,
        "adapters": [{"vendor": "nvidia", "name": evil, "driver": evil}],
        "environment": {"CUDA_VISIBLE_DEVICES": evil, evil: evil},
        "nvml": {"error": evil},
        "build": {"version": evil, "error": evil, "archs": [evil]},
        "here": {"message": evil, "gpus": [{"name": evil, "error": evil}]},
        "unknown": [evil],
    }
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    for flags in ([], ["--json"]):
        doctor(["--facts", str(tmp_path / "facts.json"), *flags])
        output = "".join(capsys.readouterr())
        assert "GPU" in output
        assert all(c.isprintable() or c == "\n" for c in output)


def test_a_line_of_error_is_no_command_to_a_terminal() -> None:
    assert one_line("weights: a\x1b[2Jb\x9b is too many").isprintable()
