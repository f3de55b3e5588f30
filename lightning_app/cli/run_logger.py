"""The logger of a run: a new run's own folder, or that of the run that is continued."""

import os
import re
import sys

from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_app.checkpoint.io import LAST
from lightning_app.cli.outputs import check_folder
from lightning_app.errors import UsageError
from lightning_app.telemetry.dashboard import RunLogger


def run_logger(
    root: str, name: str | None, continues: str | None, is_here: bool = True
) -> RunLogger:
    """Choose where a run is logged.

    Args:
        root: The Trainer's `default_root_dir`.
        name: Of a new run, and its folder; `version_N` if not given.
        continues: The path of the checkpoint that the run goes on from; `None` for a new run.
        is_here: Whether this host has it; if not, a folder of that name here may be of another run.

    Raises:
        UsageError: The name is that of another run, or none for a folder.
    """
    runs = os.path.realpath(os.path.join(os.path.expanduser(root), "lightning_logs"))
    if continues and "://" not in root:  # no file is cut there
        folder = os.path.dirname(os.path.dirname(os.path.realpath(continues)))
        is_its_own = name in (None, os.path.basename(folder)) and os.path.dirname(folder) == runs
        if os.path.basename(continues) == LAST and is_its_own:
            if is_here or not os.path.exists(folder):
                return RunLogger(root, os.path.basename(folder), continues=True)
            rank_zero_only(print)(
                f"{continues} is on another host, and this host has a folder of that name as well: "
                "the run goes on in a new one",
                file=sys.stderr,
            )
            return RunLogger(root)
    if name is None:
        return RunLogger(root)
    if not re.fullmatch(r"\w[\w.+=,-]*", name):
        raise UsageError(f"--run_name {name}: it names a folder: letters, digits and _ . + = , -")
    is_first = getattr(rank_zero_only, "rank", 0) == 0  # which has made it before others look
    if is_first and os.path.exists(os.path.join(runs, name)):
        raise UsageError(
            f"--run_name {name}: lightning_logs has a run of that name: choose another"
        )
    check_folder(f"--run_name {name}", os.path.join(root, "lightning_logs", name))
    return RunLogger(root, name)
