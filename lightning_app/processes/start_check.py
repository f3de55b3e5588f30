"""What has to be the same in all processes of a run, compared before they begin."""

import hashlib
import os
import platform
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

import lightning_app

MAX_NAMED = 4  # ranks


def facts(modules: Iterable[str | None] = ()) -> dict[str, Any]:
    """What this process tells the others of itself.

    Args:
        modules: Files of the user's own code.
    """
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "same": {
            "Python": ".".join(platform.python_version_tuple()[:2]),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "lightning_app": _digest(Path(lightning_app.__file__).parent.rglob("*.py")),
            "the model's and the data's code": _digest(
                Path(m) for m in modules if m and os.path.isfile(m)
            ),
        },
    }


def named(of_ranks: Sequence[Mapping[str, Any]], rank: int) -> str:
    """A rank in words, with what finds its process.

    Args:
        of_ranks: What `facts` gave, by rank.
        rank: Its number.
    """
    return f"rank {rank} on {of_ranks[rank]['host']} (pid {of_ranks[rank]['pid']})"


def gone(of_ranks: Sequence[Mapping[str, Any]], rank: int) -> str:
    """That a rank is not there any more, in words; arguments as of `named`."""
    return f"{named(of_ranks, rank)} does not answer: its process, its host or its network is gone"


def in_few_words(ranks: Sequence[Any]) -> str:
    """The first of some ranks, or of their names."""
    return ", ".join(map(str, ranks[:MAX_NAMED])) + ", …" * (len(ranks) > MAX_NAMED)


def _digest(files: Iterable[Path]) -> str:
    """A short name for what is in some files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def difference(of_ranks: Sequence[dict[str, Any]]) -> str | None:
    """The first thing that is not the same everywhere, in words; `None` if there is none.

    Args:
        of_ranks: What `facts` gave, by rank.
    """
    first = of_ranks[0]
    for name, expected in first["same"].items():
        others = [rank for rank, own in enumerate(of_ranks) if own["same"].get(name) != expected]
        if others:
            other = of_ranks[others[0]]
            return (
                f"{name} is not the same on all hosts: {expected} on {first['host']} (rank 0), "
                f"{other['same'].get(name)} on {other['host']} (rank {in_few_words(others)}): "
                "install the same everywhere"
            )
    return None
