"""Kills and signals: nothing is lost, nothing is done twice, no process stays behind."""

import os
import random
import signal
import socket
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from typing_extensions import override

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.processes.signals import Stopped
from tests.command import outlives, start, without_waits
from tests.documented import exit_code
from tests.events import scalars
from tests.runs import make_trainer
from tests.train_to_end import train
from tests.user_modules import Shuffled, Submodule

FLAGS = (
    *("--model", "tests.slow.Slow", "--trainer.plugins", "tests.slow.SlowIO"),
    *("--precision", "64-true", "--log_every_n_steps", "5", "--max_epochs", "40"),
    *("--data.length", "101", "--data.batch_size", "4", "--data.val_length", "30"),
    *("--accelerator", "cpu", "--save_every_s", "0.1"),
)
LAYOUTS = {
    "single": ("--devices", "1"),
    "ddp": ("--devices", "2", "--strategy", "ddp"),
    "dp": ("--devices", "3", "--strategy", "dp"),
}


def kill_in(process: Popen[str], cwd: Path, moment: str, delay_s: float) -> bool:
    """Kill a run's whole process group in a moment of its life; whether it was still alive."""
    deadline = time.monotonic() + 150
    log = cwd / "lightning_logs" / "version_0"
    began = {path.name for path in log.glob("events*")}
    while not {path.name for path in log.glob("events*")} - began:
        assert time.monotonic() < deadline, "the run did not start"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(delay_s)
    while moment and not (cwd / moment).exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return alive


def run_whole(folder: Path) -> None:
    """Train without an interruption."""
    folder.mkdir()
    outcome = train(*FLAGS, *LAYOUTS["single"], cwd=folder, timeout_s=200)
    assert outcome.status == 0, outcome.stderr


def run_killed(folder: Path, seed: int, num_kills: int) -> None:
    """Train to the end through so many kills, each time on another layout."""
    folder.mkdir()
    dice = random.Random(seed)
    moments = cycle(["writing", "validating", ""] if seed % 2 else ["validating", "", "writing"])
    layouts = cycle(LAYOUTS.values())
    resume: tuple[str, ...] = ()
    for _ in range(num_kills):
        process = start(*FLAGS, *next(layouts), *resume, cwd=folder)
        # Not before there is something to continue: another run would begin.
        moment = next(moments) if resume else "lightning_logs/version_0/checkpoints/last.ckpt"
        assert kill_in(process, folder, moment, dice.uniform(0.2, 0.8)), "ended too early"
        for name in ("writing", "validating"):
            (folder / name).unlink(missing_ok=True)
        if list(folder.glob("lightning_logs/version_0/checkpoints/last.ckpt")):
            resume = ("--ckpt_path", "last")
    outcome = train(*FLAGS, *next(layouts), *resume, cwd=folder, timeout_s=200)
    assert outcome.status == 0, outcome.stderr
    assert [path.name for path in (folder / "lightning_logs").iterdir()] == ["version_0"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("num_runs", "num_kills"), [(1, 2), pytest.param(2, 6, marks=pytest.mark.slow)]
)
def test_kills_at_random_moments_lose_nothing(
    num_runs: int, num_kills: int, tmp_path: Path
) -> None:
    runs = [tmp_path / f"run_{number}" for number in range(num_runs + 1)]
    with ThreadPoolExecutor() as pool:  # side by side, as most of it is waiting for a start
        futures = [pool.submit(run_whole, runs[0])]
        futures += [pool.submit(run_killed, run, i, num_kills) for i, run in enumerate(runs[1:], 1)]
    whole, *killed = (run / "lightning_logs" / "version_0" for run in runs)
    for future in futures:
        future.result()
    for run in killed:
        assert_same_run(run, whole)


def assert_same_run(folder: Path, other: Path) -> None:
    """Assert that two finished runs have the same weights and events, and visited everything."""
    last = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (folder, other)]
    for name, weight in last[0]["state_dict"].items():
        torch.testing.assert_close(weight, last[1]["state_dict"][name], rtol=1e-12, atol=1e-12)
    curves, expected = scalars(folder), scalars(other)
    assert not [tag for tag in (*curves, *expected) if tag.startswith("coverage")]  # nothing amiss
    for tag, curve in expected.items():
        # Where equal sizes begin and end depends on when they were looked at.
        same_steps = curves[tag].keys() == curve.keys()
        assert same_steps or tag.startswith(("workload", "batch_size")), tag
        if not tag.startswith(("batch_size/rank", "workload")):
            for step in curve.keys() & curves[tag].keys():
                value = curve[step]
                assert curves[tag][step] == pytest.approx(value, rel=1e-6), (tag, step)


@pytest.mark.parametrize(("signum", "target"), [("SIGTERM", "first"), ("SIGINT", "second")])
def test_a_signal_on_any_rank_saves_and_stops_all(signum: str, target: str, tmp_path: Path) -> None:
    process = start(*FLAGS, *LAYOUTS["ddp"], cwd=tmp_path)
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pid = process.pid if target == "first" else child_of(process.pid)
    os.kill(pid, getattr(signal, signum))
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + getattr(signal, signum)
    assert not outlives(process.pid, seconds=5)
    assert f"stopped by {signum}: saved" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    step = torch.load(last, weights_only=True)["global_step"]
    curves = scalars(last.parent.parent)
    steps = {*curves["batch_size/global"], *curves.get("batch_size/last", {})}
    assert max(steps) == step - 1  # to the last step, and no further


@pytest.mark.parametrize("layout", ["single", "ddp"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_as_to_one(
    signum: signal.Signals, layout: str, tmp_path: Path
) -> None:
    flags = (*FLAGS, *LAYOUTS[layout], "--data.num_workers", "2")
    process = start(*flags, cwd=tmp_path)
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert not outlives(process.pid, seconds=10)
    lines = without_waits(stderr).splitlines()
    (line,) = [line for line in lines if not line.startswith("asked for")]
    assert line.startswith(f"train.py: stopped by {signum.name}: saved")
    torch.load(last, weights_only=True)


def test_the_programs_own_handler_is_called_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    heard = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: heard.append(signum))
    try:
        trainer = make_trainer(
            "single_device",
            1,
            max_epochs=1,
            enable_checkpointing=True,
            default_root_dir=tmp_path,
            callbacks=[SignalsItself(), LastCheckpoint()],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice
            with pytest.raises(Stopped, match="stopped by SIGTERM"):
                trainer.fit(Submodule(), Shuffled())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert trainer.global_step == 2


class SignalsItself(Callback):
    """Tells its own process to stop, in the second step."""

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def child_of(pid: int) -> int:
    """The process with a rank that another started."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = path.read_text().rsplit(")", 1)[1].split()
        command = (path.parent / "cmdline").read_text()
        if int(fields[1]) == pid and "train.py" in command:
            return int(path.parent.name)
    raise AssertionError("no second rank")


def test_a_fault_keeps_its_traceback_and_the_last_checkpoint(tmp_path: Path) -> None:
    flags = ("--model", "tests.user_modules.Faulty", "--max_epochs", "3", *LAYOUTS["ddp"])
    outcome = train(*flags, "--accelerator", "cpu", cwd=tmp_path)
    assert outcome.status == exit_code("an error in the user's code, on any rank")
    assert f"rank 1 on {socket.gethostname()}:\nTraceback" in outcome.stderr
    assert "ZeroDivisionError: on rank 1" in outcome.stderr
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 34
