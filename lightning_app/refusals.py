"""What ends a run in one line, and how ranks tell it once."""

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_app.errors import frames_of, is_users, module_of


def refusal(error: Exception, checkpoint: str | None) -> str | None:
    """What the user got wrong, if that is why a run has failed.

    Args:
        error: What ended it.
        checkpoint: The path of the checkpoint that it began with.
    """
    frames, message = frames_of(error), str(error)
    if isinstance(error, MisconfigurationException):
        return message
    if isinstance(error, ValueError) and module_of(frames[-1]).startswith(
        "lightning.pytorch.loops"
    ):
        return message  # a flag's value that the loops do not like
    if isinstance(error, RuntimeError) and module_of(frames[-1]).startswith(
        "lightning.pytorch.callbacks"
    ):
        return message  # a callback of Lightning's that misses what it was told to watch
    restoring = [i for i, frame in enumerate(frames) if _restores(frame)]
    if not restoring or checkpoint is None:
        return None
    if isinstance(error, UnpicklingError):
        unknown = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", message)
        what = unknown[1] if unknown else "more than tensors and numbers"
        return (
            f"--ckpt_path {checkpoint}: it holds {what}, and such objects can run code when they "
            "are loaded: if you trust the file, add --weights_only false"
        )
    if "loading state_dict" not in message and any(map(is_users, frames[restoring[0] :])):
        return None
    why = message if isinstance(error, (RuntimeError, ValueError)) else f"{type(error).__name__}"
    return f"--ckpt_path {checkpoint}: of another model, or of other sizes: {why}"


def _restores(frame: FrameType) -> bool:
    """Whether this is Lightning, taking a run's state from a checkpoint."""
    connector = "lightning.pytorch.trainer.connectors.checkpoint_connector"
    name = frame.f_code.co_name.lstrip("_")
    return module_of(frame) == connector and name.startswith(("re", "load"))


PATIENCE_S = 5.0  # of a rank with the others, at its end
HEARSAY_S = 1.0  # another rank has told before it ended, and Lightning soon kills this one


def tell(line: str, parent: int) -> None:
    """Print a user's error: once if the first rank has it as well, else with the rank that has it.

    Args:
        line: What is wrong.
        parent: The process that started this one: Lightning's first rank, or a launcher, which
            ends this one if another has failed.
    """
    rank: int = getattr(rank_zero_only, "rank", 0)
    store = _store()
    if rank == 0:
        print(f"train.py: error: {line}", file=sys.stderr)
        if store is not None:  # which ends with this process
            store.set("told", "")
            _wait(lambda: store.add("heard", 0) >= dist.get_world_size() - 1)
        return
    if store is None:
        told = _wait(lambda: os.getppid() != parent)
    else:
        try:
            store.wait(["told"], timedelta(seconds=PATIENCE_S))
            told = store.add("heard", 1) > 0
        except RuntimeError:  # the first rank has not told, or has ended by another error
            told = False
    if not told:
        print(f"train.py: error: rank {rank}: {line}", file=sys.stderr)
        if store is not None:
            with suppress(RuntimeError):
                store.set("told", "")


def another_rank_told(error: BaseException) -> bool:
    """Whether an error is that another rank has ended, after it told the user what is wrong."""
    texts = ("closed by peer", "reset by peer", "Broken pipe")
    is_of_another = isinstance(error, ConnectionError) or any(t in str(error) for t in texts)
    store = _store()
    if not is_of_another or store is None:
        return False
    try:
        store.wait(["told"], timedelta(seconds=HEARSAY_S))
        store.add("heard", 1)
    except RuntimeError:  # nobody has told, or the first rank has ended
        return False
    return True


def _store() -> Any:
    """What the ranks of a process group share; `None` without a group."""
    connected = dist.is_available() and dist.is_initialized()
    return dist.distributed_c10d._get_default_store() if connected else None


def _wait(happened: Callable[[], bool]) -> bool:
    """Whether something happens in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := happened()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return result
