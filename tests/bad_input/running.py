"""Runs one odd command line in a folder of odd files, and says what it may end as."""

import re
import shlex
from pathlib import Path

from tests.bad_input.odd_files import LONG_NAME, make_odd_files
from tests.command import without_waits
from tests.train_to_end import Ended, Forks

SUBCOMMANDS = ("fit", "validate", "test", "predict", "plan")


def run_odd(forks: Forks, folder: Path, command: str, limit_s: float = 60) -> Ended:
    """Run a command line, as short as it can be: on the CPU, one epoch, few samples.

    Args:
        forks: Runs it.
        folder: An empty one.
        command: As in a shell: variables, a subcommand, flags; `LONGNAME` is a name too long.
        limit_s: Seconds it may take.
    """
    make_odd_files(folder)
    words = shlex.split(command.replace("LONGNAME", LONG_NAME))
    env = {}
    while words and (variable := re.match(r"(\w+)=(.*)", words[0])):
        env[variable[1]] = variable[2]
        del words[0]
    subcommand = [words.pop(0)] if words[:1] and words[0] in SUBCOMMANDS else []
    first = ["--accelerator", "cpu"]
    if subcommand in ([], ["fit"]):
        first += [] if "max_" in command else ["--max_epochs", "1"]
        first += [] if re.search(r"--data\b(?!\.)", command) else ["--data.length", "60"]
    return forks.run(*subcommand, *first, *words, cwd=folder, env=env, limit_s=limit_s)


def refused_well(ended: Ended) -> bool:
    """Whether a run was refused: by one line, with nothing written and no process left."""
    lines = without_waits(ended.stderr).splitlines()
    said_once = len(lines) == 1 and lines[0].startswith("train.py: error: ")
    return said_once and ended.status == 2 and not ended.files and not ended.is_left


def stopped_well(ended: Ended) -> bool:
    """Whether a run stopped, by one line, as its numbers led to no loss."""
    is_told = ended.stderr.startswith("train.py: error: the loss of step ")
    return ended.status == 3 and is_told and ended.stderr.count("\n") == 1 and not ended.is_left


def went_well(ended: Ended) -> bool:
    """Whether a run came to its end."""
    return ended.status == 0 and "Traceback" not in ended.stderr and not ended.is_left
