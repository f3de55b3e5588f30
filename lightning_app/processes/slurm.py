"""What Slurm is asked to do."""

import os
import signal
import subprocess
import sys

from lightning_app.command import program

LIMIT_S = 60.0
# `#SBATCH --signal=USR1@120` sends them ahead of the limit. SIGTERM is also that of `scancel`.
AHEAD_OF_LIMIT = ("SIGUSR1", "SIGUSR2")


def requeue(signum: int) -> None:
    """Queue this job again, if a signal has told that its time is nearly up.

    Args:
        signum: The signal that the run stops by.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or signal.Signals(signum).name not in AHEAD_OF_LIMIT:
        return
    # Before: with the job, Slurm ends this process, and what it has not shown yet is lost.
    print(f"{program()}: asks Slurm to queue job {job} again", file=sys.stderr, flush=True)
    try:
        call = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, timeout=LIMIT_S, encoding="utf-8"
        )
        failed = call.stderr.strip() if call.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        failed = str(error)
    if failed:
        print(f"{program()}: job {job} is not queued again: {failed}", file=sys.stderr)
