"""Which checkpoint a run begins with: on one host, or agreed on by several.

Hosts may share a folder, or have one each. Then the checkpoint is where the first rank was when it
was saved, which need not be where it is now.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from lightning.pytorch.loggers import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_app.checkpoint.io import find_checkpoint, is_local, runs_folder
from lightning_app.cli.placing import Placing
from lightning_app.errors import UsageError
from lightning_app.processes.placement import restarts
from lightning_app.processes.rendezvous import meet_early
from lightning_app.processes.start_check import in_few_words

CONTINUE = "continue"
WORDS = {"last": "last", "best": "best", CONTINUE: "last"}  # and the kind of file that they mean


@dataclass(frozen=True)
class Found:
    """A checkpoint as one host sees it.

    Attributes:
        path: Where it is; `None` if there is none.
        changed_s: When it was written, by that host's clock.
        num_bytes: How large it is.
        refused: Why there is none, where there has to be one.
    """

    path: str | None = None
    changed_s: float = 0.0
    num_bytes: int = 0
    refused: str | None = None


@dataclass(frozen=True)
class Begun:
    """What a run begins with.

    Attributes:
        path: Of the checkpoint; `None` if it begins anew.
        is_here: Whether this host has that file; if not, another sends it.
    """

    path: str | None
    is_here: bool = True


def begins_with(
    asked: str | None, flags: Any, placing: Placing, parts: tuple[Any, ...], limit_s: float
) -> Begun:
    """Find what `--ckpt_path` names, the same on all hosts: their processes meet here.

    Args:
        asked: A path or URL, `last`, `best` or `continue`.
        flags: The Trainer's.
        placing: Where this process is.
        parts: The model and the data, whose code is to be the same everywhere.
        limit_s: Seconds to wait for the other processes.

    Raises:
        UsageError: There is none, and there has to be one.
    """
    if not placing.is_shared:
        if asked == CONTINUE and placing.flags["num_nodes"] > 1:
            raise UsageError(
                f"--ckpt_path {CONTINUE}: on several hosts, start the run by torchrun or srun"
            )
        if asked not in WORDS:
            return Begun(asked)
    own = look_for(asked, flags.default_root_dir, flags.logger) if asked else Found()
    found = own
    if placing.is_shared:
        modules, environment = tuple(map(file_of, parts)), placing.flags["plugins"][-1]
        says = asdict(own), _inode(flags.default_root_dir or ".")
        met = meet_early(environment, says, answer, modules, limit_s)
        found, others = Found(**met.answer[0]), met.answer[1]
        if others:
            hosts = in_few_words(sorted({met.of_ranks[rank]["host"] for rank in others}))
            first = met.of_ranks[0]["host"]
            line = f"the folder on {hosts} seems to be another: the run is kept in that of {first}"
            rank_zero_only(print)(line, file=sys.stderr)
    if found.path is None and found.refused:
        raise UsageError(found.refused)
    return Begun(found.path, is_here=found == own)


def look_for(asked: str, root: str | None, logger: Any) -> Found:
    """The checkpoint that `--ckpt_path` names, on this host.

    Args:
        asked: A path or URL, `last`, `best` or `continue`.
        root: The Trainer's `default_root_dir`.
        logger: The Trainer's, as it was asked for: an object, several, or whether to have one.
    """
    if asked not in WORDS:
        return _file(asked) or Found(refused=f"--ckpt_path {asked} does not exist on any host")
    loggers = logger if isinstance(logger, list) else [logger]
    own = next((logger for logger in loggers if isinstance(logger, Logger)), None)
    path = find_checkpoint(WORDS[asked], root or ".", own)
    if path is not None:
        return _file(path) or Found()
    if asked == CONTINUE:
        return Found()
    runs = runs_folder(root or ".", own).removeprefix("./")
    if asked == "best" and find_checkpoint("last", root or ".", own):
        return Found(
            refused=f"--ckpt_path best: no run in {runs} has kept a best checkpoint, as none has "
            "logged a metric to go by: name one by --monitor, or use --ckpt_path last"
        )
    return Found(
        refused=f"--ckpt_path {asked}: no checkpoint in {runs}; leave it out to start anew, or "
        f"name a file; --ckpt_path {CONTINUE} goes on where there is something to go on from"
    )


def _file(path: str) -> Found | None:
    if not is_local(path):
        files, place = url_to_fs(path)
        return Found(path) if files.exists(place) else None
    try:
        state = Path(path).stat()
    except OSError:
        return None
    return Found(path, state.st_mtime, state.st_size)


def _inode(root: str) -> int | None:
    """The number of a folder in its file system: the same where hosts share it."""
    folder = os.path.expanduser(root)
    return os.stat(folder).st_ino if os.path.isdir(folder) else None


def answer(said: Sequence[Any]) -> tuple[dict[str, Any], list[int]]:
    """The newest checkpoint, and the ranks with another folder than the first one's.

    Args:
        said: By rank, what it has found, and its folder.
    """
    newest = max(
        (found for found, _ in said), key=lambda one: (one["path"] is not None, one["changed_s"])
    )
    return newest, [rank for rank, (_, folder) in enumerate(said) if folder != said[0][1]]


def file_of(thing: Any) -> str | None:
    """The file that an object's class is in."""
    module = sys.modules.get(type(thing).__module__)
    return getattr(module, "__file__", None) if thing is not None else None


def in_words(asked: str | None, path: str | None, root: str | None) -> str | None:
    """What the user is told of it, in a line; nothing of a path that was given."""
    if asked not in WORDS:
        return None
    times = restarts(os.environ)
    again = f" (restarts so far: {times})" if times else ""
    if path is None:
        runs = os.path.normpath(runs_folder(root or "."))
        return f"No checkpoint in {runs} yet: starting from the beginning{again}"
    return f"From {path}{again}"
