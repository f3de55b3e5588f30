"""What goes wrong while a run goes on: its exit status, its line, what is left on disk."""

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.telemetry.dashboard import RunLogger
from lightning_app.telemetry.dashboard.folder_lock import FolderLock
from tests.command import ROOT, start
from tests.documented import exit_code, faults
from tests.live_program import STDERR, STDOUT, Program, children_of, no_file_over, set_variable

ALONE = ("--accelerator", "cpu", "--devices", "1", "--max_epochs", "2")
TWO = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--max_epochs", "2")
WAITS = ("--model", "tests.faulty.Waits")
NAN = ("--model", "tests.faulty.Nan")
NON_FINITE = "a loss that is NaN or infinite"
RUN = Path("lightning_logs", "version_0")
LAST = RUN / "checkpoints" / "last.ckpt"


def step_saved(folder: Path) -> int:
    """The step of a run's last checkpoint, whose weights are finite."""
    checkpoint = torch.load(folder / LAST, weights_only=True)
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    step: int = checkpoint["global_step"]
    return step


# ddp, while it starts


def start_of_two(folder: Path, *flags: str) -> tuple[Program, list[int]]:
    program = Program(*TWO, *WAITS, *flags, cwd=folder)
    return program, program.until(partial(children_of, program.pid))


def test_a_run_killed_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    program, _ = start_of_two(tmp_path)
    program.signal(signal.SIGKILL)
    code = exit_code("a run of several ranks is killed while it starts")
    assert program.end(20) == 128 - code  # in Python's words


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_while_it_starts_leaves_no_process(signum: int, tmp_path: Path) -> None:
    program, _ = start_of_two(tmp_path)
    program.signal(signum)
    assert program.end(20) == exit_code("a signal while it starts", signum)
    name = signal.Signals(signum).name
    assert program.lines == [f"train.py: stopped by {name}: nothing to save"]
    assert {path.name for path in tmp_path.iterdir()} == {STDOUT, STDERR}


def test_a_port_in_use_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program = Program(*TWO, cwd=tmp_path, setting=partial(set_variable, "MASTER_PORT", port))
        assert program.end(60) == exit_code("the port is in use")
    assert "EADDRINUSE" in program.lines[-1]


# ddp, while it trains


def test_a_rank_that_is_killed_is_named(tmp_path: Path) -> None:
    program, (rank_1,) = start_of_two(tmp_path)
    program.until((tmp_path / LAST).exists)
    os.kill(rank_1, signal.SIGKILL)
    assert program.end(30) == exit_code("a rank is killed")
    line = f"train.py: error: rank 1 on {socket.gethostname()} was killed by SIGKILL"
    assert program.lines == [f"{line}; ./{LAST} is whole: continue with --ckpt_path last"]
    assert step_saved(tmp_path) == 34


def test_ranks_that_save_alone_are_named(tmp_path: Path) -> None:
    flags = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--max_epochs", "2")
    model = ("--model", "tests.faulty.SavesAlone", "--step_timeout_s", "4")
    program = Program(*flags, *model, cwd=tmp_path)
    fault = "a hook calls `trainer.save_checkpoint` on some ranks only"
    assert program.end(60) == exit_code(fault)
    assert "Traceback" not in program.stderr
    place = "waited in trainer.save_checkpoint, by on_train_epoch_end of tests.faulty"
    assert f"{place}: every process has to call that" in program.lines[-1]


def test_a_second_signal_ends_a_run_that_waits_for_a_rank(tmp_path: Path) -> None:
    program, (rank_1,) = start_of_two(tmp_path)
    program.until((tmp_path / "in_step_1").exists)
    os.kill(rank_1, signal.SIGSTOP)  # it hangs
    program.signal(signal.SIGINT)
    time.sleep(1.5)
    assert program.process.is_alive()
    program.signal(signal.SIGINT)
    assert program.end(5) == exit_code("a rank hangs", signal.SIGINT)
    assert program.lines == ["train.py: stopped by a second SIGINT, at once: not saved"]


def test_a_loss_that_is_nan_on_one_rank_stops_all(tmp_path: Path) -> None:
    program = Program(*TWO, *NAN, "--log_every_n_steps", "5", cwd=tmp_path)
    assert program.end(60) == exit_code(NON_FINITE)
    assert program.lines == [
        "train.py: error: the loss of step 40 is nan on rank 1: stopped; the last good checkpoint "
        f"is ./{LAST}; to train on: --on_nonfinite_loss warn | ignore"
    ]
    assert step_saved(tmp_path) == 34


# one process


@pytest.mark.parametrize("choice", ["stop", "warn", "ignore"])
def test_a_loss_that_is_nan(choice: str, tmp_path: Path) -> None:
    program = Program(*ALONE, *NAN, "--on_nonfinite_loss", choice, cwd=tmp_path)
    assert program.end() == (exit_code(NON_FINITE) if choice == "stop" else 0)
    first, *others = program.lines
    if choice != "ignore":
        assert "the loss of step 40 is nan" in first
    assert "not saved" in (others or [first])[-1] or choice == "stop"
    assert step_saved(tmp_path) == 34


@pytest.mark.parametrize(
    ("command", "signum"),
    [
        ("validate", signal.SIGTERM),
        ("test", signal.SIGINT),
        ("predict", signal.SIGTERM),
        ("fit", signal.SIGHUP),
    ],
)
def test_a_signal_ends_whatever_runs(command: str, signum: int, tmp_path: Path) -> None:
    program = Program(command, *ALONE, *WAITS, "--data.num_workers", "1", cwd=tmp_path)
    program.until((tmp_path / "in_step_0").exists)
    os.killpg(program.pid, signum)  # its loader's worker, too, as a terminal does
    other = "a signal in validation, test or prediction"
    fault = "a signal in training" if command == "fit" else other
    assert program.end(20) == exit_code(fault, signum)
    path = f"./{LAST}"
    saved = (
        f"saved {path}; continue with --ckpt_path last" if command == "fit" else "nothing to save"
    )
    assert program.lines == [f"train.py: stopped by {signal.Signals(signum).name}: {saved}"]
    assert (tmp_path / LAST).exists() == (command == "fit")
    if command == "fit":  # as two pages show it
        for page, name, run in (("README", "SIGINT", 3), ("docs/resume", "SIGTERM", 0)):
            line = program.lines[0].replace("SIGHUP", name).replace("version_0", f"version_{run}")
            assert f"\n{line}\n" in (ROOT / f"{page}.md").read_text()


def test_a_signal_ends_a_validation_on_forked_ranks(tmp_path: Path) -> None:
    several = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp_fork")
    program = Program("validate", *several, *WAITS, "--data.val_length", "30000", cwd=tmp_path)
    program.until((tmp_path / "in_step_0").exists)
    program.signal(signal.SIGTERM)
    fault = "a signal in validation, test or prediction"
    assert program.end(20) == exit_code(fault, signal.SIGTERM)
    assert program.lines == ["train.py: stopped by SIGTERM: nothing to save"]


def test_what_the_users_code_forks_is_its_own(tmp_path: Path) -> None:
    process = start("--model", "tests.faulty.Forks", "--accelerator", "cpu", cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=100)
    assert (process.returncode, stderr) == (0, "")
    assert [line for line in stdout.splitlines() if line.startswith(("heard", "the child"))] == [
        "heard",
        f"the child ended by -{signal.SIGTERM.value}",
    ]


def test_sighup_is_ignored_where_it_was_before(tmp_path: Path) -> None:
    program = Program(*ALONE, *WAITS, cwd=tmp_path, setting=as_under_nohup)
    program.until((tmp_path / "in_step_0").exists)
    program.signal(signal.SIGHUP)
    program.until((tmp_path / LAST).exists)
    assert program.end() == 0


def as_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_second_signal_ends_a_long_step(tmp_path: Path) -> None:
    program = Program(*ALONE, *WAITS, "--model.first_s", "60", cwd=tmp_path)
    program.until((tmp_path / "in_step_0").exists)
    for _ in range(2):  # both at once are one, as a launcher passes on what its group has got
        program.signal(signal.SIGINT)
    time.sleep(1.5)
    assert program.process.is_alive()
    program.signal(signal.SIGINT)
    code = exit_code("a second signal, a second or more later", signal.SIGINT)
    assert program.end(5) == code
    assert program.lines == ["train.py: stopped by a second SIGINT, at once: not saved"]


def into_a_pipe_that_is_closed() -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)


def to_a_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def to_nowhere() -> None:
    # As Python has it that is started with its stdout closed.
    os.close(1)
    sys.stdout = None


@pytest.mark.parametrize("setting", [into_a_pipe_that_is_closed, to_a_full_disk, to_nowhere])
def test_a_run_goes_on_without_its_output(setting: Callable[[], Any], tmp_path: Path) -> None:
    program = Program(*ALONE, "--model.log_shapes", "every", cwd=tmp_path, setting=setting)
    assert program.end() == exit_code("standard output is closed, or its disk full")
    assert program.lines == []
    assert step_saved(tmp_path) == 68
    assert (tmp_path / STDOUT).read_text() == ""


def test_predictions_are_whole_or_as_they_were(tmp_path: Path) -> None:
    own = ("--data.test_length", "3000")
    program = Program("predict", *ALONE, *own, cwd=tmp_path, setting=partial(no_file_over, 4096))
    assert program.end() == exit_code("no room for `predictions.pt`")
    (line,) = [line for line in program.lines if "error" in line]
    assert line.startswith("train.py: error: predictions not saved in ")
    assert line.endswith(os.strerror(errno.EFBIG))
    assert not list(tmp_path.rglob("*predictions*"))


# the folder of a run


def test_runs_that_start_together_have_folders_of_their_own(tmp_path: Path) -> None:
    loggers = [RunLogger(str(tmp_path)) for _ in range(3)]
    assert sorted(logger.version for logger in loggers) == [0, 1, 2]
    programs = [Program(*ALONE, "--max_epochs", "1", cwd=tmp_path) for _ in range(2)]
    for program in programs:
        assert program.end() == exit_code("two runs start at the same moment")
    for number in (3, 4):
        run = tmp_path / "lightning_logs" / f"version_{number}"
        assert len(list(run.glob("events*"))) == 1
        assert (run / "checkpoints" / "last.ckpt").exists()


def test_a_run_that_goes_on_is_not_continued_by_another(tmp_path: Path) -> None:
    program = Program(*ALONE, cwd=tmp_path)
    assert program.end() == 0
    before = sorted(tmp_path.rglob("*"))
    lock = FolderLock()
    assert lock.take(str(tmp_path / RUN))
    more = (*ALONE, "--max_epochs", "3", "--ckpt_path", "last")
    program = Program(*more, cwd=tmp_path)
    assert program.end() == exit_code("a run is continued while it goes on")
    assert program.lines == [
        "train.py: error: the run in lightning_logs/version_0 is still going on in another "
        "process, and both would write there: wait for its end, or leave out --ckpt_path"
    ]
    assert sorted(tmp_path.rglob("*")) == before
    lock.release()
    assert Program(*more, cwd=tmp_path).end() == 0


# the docs


def test_each_documented_fault_is_tested() -> None:
    folder = Path(__file__).parent
    sources = "".join(path.read_text() for path in folder.rglob("test_*.py"))
    assert len(faults()) >= 15
    for name, fault in faults().items():
        assert f'"{name}"' in sources  # where its exit code is read
        assert fault.tests
        for name in fault.tests:
            assert f"def {name}(" in sources
