"""A start that is refused leaves nothing, also where a launcher ends the rank that has a folder."""

import os
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lightning_app.strategies.ddp import meeting
from tests.documented import exit_code
from tests.live_program import STDERR, STDOUT, Program
from tests.ranks import as_torchrun, free_port
from tests.train_to_end import train


def rank_of_two(rank: int, port: int, folder: Path, waits_in: str) -> Program:
    folder.mkdir()
    flags = ("--model", "tests.faulty.Refused", "--model.waits_in", waits_in)
    setting = partial(place, rank, port)
    return Program(*flags, "--accelerator", "cpu", cwd=folder, setting=setting)


def place(rank: int, port: int) -> None:
    os.environ |= as_torchrun(rank, 2, port)


def left_by(program: Program) -> list[str]:
    """What a program has left in its folder."""
    return sorted({path.name for path in program.cwd.iterdir()} - {STDOUT, STDERR, "waits"})


@pytest.mark.parametrize("waits_in", ["Python", "C"])
def test_a_rank_that_is_ended_as_another_refuses_leaves_nothing(
    waits_in: str, tmp_path: Path
) -> None:
    port = free_port()
    first, other = (rank_of_two(n, port, tmp_path / str(n), waits_in) for n in (0, 1))
    first.until((first.cwd / "waits").exists)
    assert left_by(first) == ["lightning_logs"]
    first.signal(signal.SIGTERM)
    assert first.end(20) == exit_code("a signal while it starts", signal.SIGTERM)
    assert first.lines[-1] == "train.py: stopped by SIGTERM: nothing to save"
    assert left_by(first) == []
    assert other.end(20) == exit_code("what only one rank refuses")
    assert f"train.py: error: rank 1 on {socket.gethostname()}: only here\n" in other.stderr


def test_nothing_is_made_before_all_ranks_have_met(tmp_path: Path) -> None:
    flags = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp")
    first = Program(*flags, cwd=tmp_path, setting=wait_where_ranks_meet)
    first.until((tmp_path / "waits").exists)
    assert left_by(first) == []
    first.signal(signal.SIGKILL)
    assert first.end(20) == -signal.SIGKILL
    assert left_by(first) == []


def wait_where_ranks_meet() -> None:
    def wait(*args: Any) -> None:
        Path("waits").touch()
        time.sleep(3600)

    vars(meeting)["meeting"] = wait


def test_an_error_before_the_first_step_leaves_what_the_user_has_written(tmp_path: Path) -> None:
    model = ("--model", "tests.faulty.FailsFirst", "--model.writes")
    for number, writes in enumerate(("false", "true")):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = train(*model, writes, "--accelerator", "cpu", cwd=folder)
        assert outcome.status == 1, outcome.stderr
        assert outcome.stderr.count("ValueError: in the first step") == 1
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        assert files == ["lightning_logs/version_0/batch.txt"] * (writes == "true")
        assert writes == "true" or not any(folder.iterdir())
