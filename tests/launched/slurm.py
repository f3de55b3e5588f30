"""A Slurm of two nodes on this machine, by Debian's packages, without systemd or cgroups."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.ranks import free_port

PROGRAMS = ("slurmctld", "slurmd", "srun", "munged")
CAN_HAVE_SLURM = hasattr(os, "geteuid") and os.geteuid() == 0 and all(map(shutil.which, PROGRAMS))
NO_SLURM = "a Slurm of one's own needs root, and Debian's slurmctld, slurmd, slurm-client and munge"
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=cred_expire=30
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=60
MinJobAge=600
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=1
JobRequeue=1
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=100
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=100
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Slurm:
    """One that runs.

    Attributes:
        env: By which its commands find it.
        folder: Of its own files.
    """

    env: dict[str, str]
    folder: Path

    def run(self, *command: str, cwd: Path, timeout_s: float = 120) -> str:
        """Run one of its commands; gives what it wrote."""
        done = subprocess.run(
            command, cwd=cwd, env=self.env, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, script: str, cwd: Path, *flags: str) -> str:
        """Submit a script; gives the job's number."""
        (cwd / "job.sbatch").write_text(script)
        return self.run("sbatch", "--parsable", *flags, "job.sbatch", cwd=cwd).strip()

    def state(self, job: str) -> str:
        """Of a job: `RUNNING`, `COMPLETED`, …"""
        told = subprocess.run(
            ["scontrol", "show", "job", job], env=self.env, capture_output=True, text=True
        ).stdout
        return told.partition("JobState=")[2].partition(" ")[0]

    def until(self, job: str, *states: str, seconds: float = 120) -> str:
        """Wait until a job is in one of some states."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) not in states:
            assert time.monotonic() < deadline, (state, states, self.logs())
            time.sleep(0.3)
        return state

    def wait_for(
        self, happened: Callable[[], bool], told: Callable[[], str], seconds: float = 180
    ) -> None:
        """Wait for something; fail with what a job has told if it does not come."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, told() + self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        """What its daemons have written last."""
        return "\n".join(path.read_text()[-1500:] for path in self.folder.glob("*.log"))


@contextmanager
def slurm(folder: Path, env: dict[str, str]) -> Iterator[Slurm]:
    """Start it; it ends with all that it runs."""
    config = folder / "slurm.conf"
    ports = [free_port() for _ in range(3)]
    config.write_text(CONFIG.format(host=socket.gethostname(), ports=ports, folder=folder))
    (folder / "state").mkdir()
    daemons: list[subprocess.Popen[bytes]] = []
    own_munge = not Path("/run/munge/munge.socket.2").is_socket()
    own = Slurm(env | {"SLURM_CONF": str(config)}, folder)

    def daemon(*command: str) -> None:
        with (folder / "daemons.txt").open("ab") as file:
            daemons.append(subprocess.Popen(command, env=own.env, stdout=file, stderr=file))

    try:
        if own_munge:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            daemon("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", "-F")
        time.sleep(1)
        daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            daemon("slurmd", "-D", "-N", node)
        deadline = time.monotonic() + 30
        while "idle" not in subprocess.run(
            ["sinfo", "-h", "-o", "%t %D"], env=own.env, capture_output=True, text=True
        ).stdout.replace("idle 2", "idle"):
            assert time.monotonic() < deadline, own.logs()
            time.sleep(0.3)
        yield own
    finally:
        for one in reversed(daemons):
            one.terminate()
        for one in daemons:
            with suppress(subprocess.TimeoutExpired):
                one.wait(10)
        while left := _started_by(config):  # its jobs' processes have groups of their own
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        for one in daemons:
            one.wait()


def _started_by(config: Path) -> list[int]:
    """The processes that have this Slurm in their environment: those of its jobs."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"SLURM_CONF={config}\0".encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found
