"""After any fault, on any layout: the exit code, no process left, and a whole continuation."""

import os
import shutil
import signal
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from tests.documented import exit_code
from tests.live_program import Program, children_of, set_variable

LAYOUTS = {
    "one": ("--devices", "1"),
    "dp2": ("--devices", "2", "--strategy", "dp"),
    "ddp2": ("--devices", "2", "--strategy", "ddp"),
    "fork2": ("--devices", "2", "--strategy", "ddp_fork"),
}
FLAGS: tuple[str, ...] = (
    "--model",
    "tests.faulty.Disturbed",
    "--accelerator",
    "cpu",
    "--precision",
    "64-true",
)
FLAGS += ("--max_epochs", "2", "--log_every_n_steps", "5")
LAST = Path("lightning_logs", "version_0", "checkpoints", "last.ckpt")
FAULTS = {
    "error": "an error in the user's code, on any rank",
    "misconfiguration": "a `MisconfigurationException` of the user's own in a step",
    "nan": "a loss that is NaN or infinite",
    "no room": "no room for a checkpoint",
    "SIGKILL": "a rank is killed",
    "SIGHUP": "a signal in training",
    "SIGINT": "a signal in training",
    "SIGTERM": "a signal in training",
    "SIGTERM SIGTERM": "a second signal, a second or more later",
    "hang": "a rank hangs",
}
FAULTS_AT_THE_START = {
    "error": "an error in the user's code, on any rank",
    "misconfiguration": "what only one rank refuses",
    "SIGKILL": "a rank is killed",
    "hang": "ranks do not find each other as they start",
    "port in use": "the port is in use",
}
OF_SEVERAL_RANKS = {"hang", "port in use"}
PROCESSES = ("ddp2", "fork2")  # one for each rank
IN_EVERY_RUN = {
    ("nan", "one"),
    ("error", "dp2"),
    ("SIGTERM", "dp2"),
    ("SIGKILL", "ddp2"),
    ("hang", "ddp2"),
    ("SIGKILL", "fork2"),
    ("SIGTERM", "fork2"),
}
STARTS_IN_EVERY_RUN = {("misconfiguration", "ddp2"), ("SIGKILL", "one")}


def pairs(faults: dict[str, str], in_every_run: set[tuple[str, str]]) -> list[ParameterSet]:
    """Each fault on each layout that can have it, most of them marked as slow."""
    return [
        pytest.param(f, la, marks=() if (f, la) in in_every_run else pytest.mark.slow)
        for f in faults
        for la in LAYOUTS
        if la == "ddp2" or f not in OF_SEVERAL_RANKS or (f, la, faults) == ("hang", "fork2", FAULTS)
    ]


def weights(folder: Path) -> dict[str, Tensor]:
    checkpoint = torch.load(folder / LAST, weights_only=True)
    assert checkpoint["global_step"] == 68
    state: dict[str, Tensor] = checkpoint["state_dict"]
    return state


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run in which nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert Program(*FLAGS, *LAYOUTS["one"], cwd=folder).end() == 0
    return weights(folder)


@pytest.mark.parametrize(("fault", "layout"), pairs(FAULTS, IN_EVERY_RUN))
def test_a_disturbed_run_is_continued_to_the_same_weights(
    fault: str, layout: str, undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    flags = (*FLAGS, *LAYOUTS[layout], "--model.fault", fault)
    limit = ("--step_timeout_s", "10") if fault == "hang" else ()
    program = Program(*flags, *limit, cwd=tmp_path)
    assert program.end(140) == code_of(fault, FAULTS, layout), program.stderr
    assert (tmp_path / "disturbed").exists()
    if fault == "hang":
        (line,) = [line for line in program.lines if "error:" in line]
        assert line.startswith(f"train.py: error: rank 1 on {socket.gethostname()} (pid ")
        assert "waited for it for 10 s: it is at step 39" in line
    continue_to_the_end(flags, tmp_path, undisturbed)


def code_of(fault: str, documented: dict[str, str], layout: str) -> int:
    """The exit status that a fault is to have."""
    signum = signal.Signals[fault.split()[0]] if fault.startswith("SIG") else 0
    is_killed = signum == signal.SIGKILL and layout not in PROCESSES  # as a whole
    return -signum if is_killed else exit_code(documented[fault], signum)


def continue_to_the_end(
    flags: tuple[str, ...], folder: Path, undisturbed: dict[str, Tensor]
) -> None:
    """Continue a run, and compare its weights with those of one that nothing disturbed."""
    program = Program(*flags, "--ckpt_path", "last", cwd=folder)
    assert program.end(140) == 0, program.stderr
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, undisturbed[name], rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of which one epoch is left to do."""
    folder = tmp_path_factory.mktemp("half")
    assert Program(*FLAGS, *LAYOUTS["one"], "--max_epochs", "1", cwd=folder).end() == 0
    return folder


@pytest.mark.parametrize(("fault", "layout"), pairs(FAULTS_AT_THE_START, STARTS_IN_EVERY_RUN))
def test_a_fault_at_the_start_costs_nothing(
    fault: str, layout: str, half: Path, undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / LAST).read_bytes()
    flags = (*FLAGS, *LAYOUTS[layout])
    is_outside = fault in OF_SEVERAL_RANKS
    disturbed = () if is_outside else ("--model.fault", fault, "--model.at", "-1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1]) if fault == "port in use" else None
        setting = partial(set_variable, "MASTER_PORT", port) if port else None
        limit = ("--start_timeout_s", "10") if fault == "hang" else ()
        more = (*flags, *limit, *disturbed, "--ckpt_path", "last")
        program = Program(*more, cwd=tmp_path, setting=setting)
        if fault == "hang":
            (rank_1,) = program.until(partial(children_of, program.pid))
            os.kill(rank_1, signal.SIGSTOP)
        code = program.end(140)
    assert code == code_of(fault, FAULTS_AT_THE_START, layout), program.stderr
    assert (tmp_path / "disturbed").exists() != is_outside
    assert fault == "error" or len(program.lines) == (code > 0)  # a traceback; or one line
    assert (tmp_path / LAST).read_bytes() == before
    continue_to_the_end(flags, tmp_path, undisturbed)
