"""An error in the user's code is a traceback: one for all ranks that have it."""

import re
from pathlib import Path

import pytest
import torch.distributed as dist

from lightning_app.cli import refusals
from tests.documented import exit_code
from tests.live_program import Program
from tests.test_faults import ALONE, TWO, step_saved


def test_a_misconfiguration_in_a_step_is_a_bug(tmp_path: Path) -> None:
    program = Program(*ALONE, "--model", "tests.faulty.Misconfigured", cwd=tmp_path)
    code = exit_code("a `MisconfigurationException` of the user's own in a step")
    assert program.end() == code
    assert "Traceback" in program.stderr
    assert program.lines[-1].endswith("MisconfigurationException: a bug")
    assert step_saved(tmp_path) == 34


def test_an_error_of_all_ranks_has_one_traceback(tmp_path: Path) -> None:
    program = Program(*TWO, "--model", "tests.faulty.Misconfigured", cwd=tmp_path)
    assert program.end() == exit_code("an error in the user's code, on any rank")
    assert program.stderr.count("Traceback") == 1
    whole, same = (re.findall(rf"^rank (\d) on \S+:{end}", program.stderr, re.M) for end in ENDS)
    assert sorted(whole + same) == ["0", "1"]
    assert len(same) == 1


ENDS = ("$", " the same error: MisconfigurationException: a bug$")


def test_an_error_that_another_rank_has_not_printed_is_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "HEARSAY_S", 0.1)
    store = dist.HashStore()  # type: ignore[attr-defined]
    assert not refusals._is_printed(store, "a")
    assert not refusals._is_printed(store, "b")  # another error
    assert not refusals._is_printed(store, "a")  # the first has ended before it could
    store.set("a is printed", "")
    assert refusals._is_printed(store, "a")
