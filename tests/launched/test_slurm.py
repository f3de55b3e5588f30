"""Runs under Slurm: a real one of two nodes where there can be one; its variables alone."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.command import ROOT
from tests.launched.hosts import environment, loopback
from tests.launched.page import command
from tests.launched.slurm import CAN_HAVE_SLURM, NO_SLURM, Slurm, slurm
from tests.launched.test_two_hosts import FLAGS, NUM_STEPS, assert_same, one_process
from tests.ranks import free_port

SCRIPTS = ROOT / "configs" / "slurm"
LAST = Path("lightning_logs", "version_0", "checkpoints", "last.ckpt")


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Slurm]:
    own = {"PACE_S": "0.1"}
    own |= {name: str(tmp_path / f"{name.lower()}.txt") for name in ("STARTS", "STEPS")}
    # n1 and n2 are no host names here.
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    (tmp_path / "slurm").mkdir()
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    with slurm(tmp_path / "slurm", environment() | own) as real:
        yield real


@pytest.mark.skipif(not CAN_HAVE_SLURM, reason=NO_SLURM)
@pytest.mark.timeout(300)
def test_the_commands_of_the_page(real: Slurm, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    readme = (ROOT / "README.md").read_text()
    (mine,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "Data(" in code]
    (tmp_path / "mine.py").write_text(mine)
    job = real.run(*shlex.split(command("sbatch ")), cwd=tmp_path).split()[-1]
    state = real.until(job, "COMPLETED", "FAILED", seconds=200)
    output = (tmp_path / f"slurm-{job}.out").read_text()
    assert state == "COMPLETED", output
    assert "2 CPU processes, ddp, global batch 30 = 15 + 15" in output
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]
    assert (tmp_path / LAST).exists()
    told = real.run(*shlex.split(command("srun ")), cwd=tmp_path)
    assert told.count("2 hosts by srun; the first: reached") == 2


@pytest.mark.slow
@pytest.mark.skipif(not CAN_HAVE_SLURM, reason=NO_SLURM)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", ["one_task_per_device", "torchrun"])
def test_a_job_goes_on_after_its_time_is_up(script: str, real: Slurm, tmp_path: Path) -> None:
    epochs = 40
    whole = one_process(tmp_path / "whole", epochs)
    flags = " ".join((*FLAGS, "--max_epochs", str(epochs), "--save_every_s", "1"))
    text = (SCRIPTS / f"{script}.sbatch").read_text().replace('"$@"', flags)
    limit = []
    if script == "one_task_per_device":
        limit = ["--time=4"]  # minutes, of which the run has two, or one: Slurm is early
        real.env["PACE_S"] = "0.4"
    job = real.submit(text, tmp_path, *limit)

    def output() -> str:
        file = tmp_path / f"slurm-{job}.out"
        return file.read_text() if file.exists() else ""

    real.until(job, "RUNNING")
    real.wait_for((tmp_path / LAST).exists, output)
    if script == "torchrun":  # the other's time is up
        real.run("scancel", "-s", "USR1", job, cwd=tmp_path)  # as `--signal=USR1@120` does
    real.wait_for(lambda: f"train.py: asks Slurm to queue job {job} again" in output(), output)
    assert "train.py: stopped by SIGUSR1: saved " in output()
    real.until(job, "RUNNING", seconds=200)
    real.wait_for(lambda: (tmp_path / "starts.txt").exists(), output)
    assert "restarts so far: 1" in output()
    if script == "torchrun":
        begun_s = (tmp_path / LAST).stat().st_mtime
        real.wait_for(lambda: (tmp_path / LAST).stat().st_mtime > begun_s, output)  # it trains
        real.run("scontrol", "requeue", job, cwd=tmp_path)  # as another job takes its place
        # Slurm ends srun, which passes on what is said, before the run has saved.
        real.wait_for(lambda: "restarts so far: 2" in output(), output)
    real.until(job, "COMPLETED", seconds=300)
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]
    assert_same(tmp_path / LAST.parent.parent, whole, epochs)
    steps = list(map(int, (tmp_path / "steps.txt").read_text().split()))
    assert steps == list(range(epochs * NUM_STEPS))  # each stop has saved: nothing is done twice


@pytest.mark.slow
@pytest.mark.skipif(not CAN_HAVE_SLURM, reason=NO_SLURM)
@pytest.mark.timeout(400)
def test_a_job_that_is_cancelled_has_saved(real: Slurm, tmp_path: Path) -> None:
    flags = " ".join((*FLAGS, "--max_epochs", "1000"))
    text = (SCRIPTS / "one_task_per_device.sbatch").read_text().replace('"$@"', flags)
    job = real.submit(text, tmp_path)
    real.wait_for((tmp_path / LAST).exists, real.logs)
    real.run("scancel", job, cwd=tmp_path)
    real.wait_for(lambda: not real.run("squeue", "-h", cwd=tmp_path), real.logs)
    assert real.state(job) == "CANCELLED"
    *_, step = (tmp_path / "steps.txt").read_text().split()
    saved = torch.load(tmp_path / LAST, weights_only=True)["global_step"]
    assert saved == int(step) + 1  # the last that was trained


@pytest.mark.timeout(200)
def test_slurms_variables_alone_place_the_tasks(tmp_path: Path) -> None:
    """Three tasks on two nodes, 2 + 1, of which nothing says so but the variables."""
    flags = [*FLAGS, "--max_epochs", "1"]
    step = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NAME": "bash",
        "SLURM_NTASKS": "3",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
        "SLURM_STEP_NODELIST": "localhost",
        "MASTER_PORT": str(free_port()),
    }
    places = [("0", "0", "0"), ("1", "1", "0"), ("2", "0", "1")]  # task, local, node
    with loopback(tmp_path) as hosts:
        started = [
            hosts.start(
                0,
                [sys.executable, str(ROOT / "train.py"), *flags],
                env=step | {"SLURM_PROCID": task, "SLURM_LOCALID": local, "SLURM_NODEID": node},
            )
            for task, local, node in places
        ]
        assert [one.end() for one in started] == [0, 0, 0], started[0].text + started[2].text
    assert "3 CPU processes, ddp, global batch 13 = 5 + 4 + 4" in started[0].text
    assert [one.text for one in started[1:]] == ["", ""]
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]
