"""What ends a run in one line, and how ranks tell it once."""

import hashlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_app.checkpoint.input import about_objects
from lightning_app.command import program
from lightning_app.errors import (
    UsageError,
    first_line,
    frames_of,
    is_users,
    module_of,
    what_it_says,
)
from lightning_app.processes import liveness, ranks
from lightning_app.processes.placement import local_rank
from lightning_app.processes.signals import deaf


def refusal(error: Exception, checkpoint: str | None, has_stepped: bool = True) -> str | None:
    """What the user got wrong, if that is why a run has failed.

    Args:
        error: What ended it.
        checkpoint: The path of the checkpoint that it began with.
        has_stepped: Whether it has made a step since.
    """
    frames, message = frames_of(error), str(error)
    if isinstance(error, MisconfigurationException):
        return None if _is_bug_in_a_step(frames) else message
    if isinstance(error, ValueError) and _is_of_loops(frames[-1]):
        return message  # a flag's value that the loops do not like
    if isinstance(error, RuntimeError) and module_of(frames[-1]).startswith(
        "lightning.pytorch.callbacks"
    ):
        return message  # a callback of Lightning's that misses what it was told to watch
    restoring = [
        i
        for i, frame in enumerate(frames)
        if _restores(frame) or (not has_stepped and _takes_up(frames[i:]))
    ]
    if not restoring or checkpoint is None:
        return None
    about = f"--ckpt_path {checkpoint}"
    if isinstance(error, UnpicklingError) and (line := about_objects(about, error)):
        return line
    about_model = "loading state_dict" in message
    if not about_model and any(map(is_users, frames[restoring[0] :])):
        return None
    what = "it does not fit this run"
    if about_model:
        what = "it is of another model, or of other sizes"
    elif module_of(frames[-1]).startswith("torch.optim."):
        what += "'s optimizer"
    why = message if isinstance(error, (RuntimeError, ValueError)) else repr(error)
    return f"{about}: {what}: {why}; to use only its weights: --weights_from {checkpoint}"


def about_optimizer(error: Exception, optimizer: Any, scheduler: Any) -> str | None:
    """What an optimizer or a scheduler that a flag names cannot do, if that has ended a run.

    Args:
        error: What ended it.
        optimizer: What `--optimizer` names, with its arguments; `None` without the flag.
        scheduler: Likewise of `--lr_scheduler`.
    """
    last = module_of(frames_of(error)[-1])
    chosen = scheduler if last == "torch.optim.lr_scheduler" else optimizer
    if chosen is None or not last.startswith("torch.optim."):
        return None
    flag = "--lr_scheduler" if chosen is scheduler else "--optimizer"
    values = ", ".join(f"{name}={value}" for name, value in chosen.init_args.items())
    return f"{flag} {chosen.class_path.rpartition('.')[2]}({values}): {what_it_says(error)}"


def _is_bug_in_a_step(frames: list[FrameType]) -> bool:
    """Whether the user's own code has raised an error, or had Lightning raise it, in a step."""
    names = ("advance", "_evaluation_step", "_predict_step")
    steps = [i for i, f in enumerate(frames) if f.f_code.co_name in names and _is_of_loops(f)]
    is_ours = module_of(frames[-1]).startswith("lightning_app.")
    return bool(steps) and not is_ours and any(map(is_users, frames[steps[-1] :]))


def _is_of_loops(frame: FrameType) -> bool:
    return module_of(frame).startswith("lightning.pytorch.loops")


def _restores(frame: FrameType) -> bool:
    """Whether this is Lightning, taking a run's state from a checkpoint."""
    connector = "lightning.pytorch.trainer.connectors.checkpoint_connector"
    name = frame.f_code.co_name.lstrip("_")
    return module_of(frame) == connector and name.startswith(("re", "load"))


def _takes_up(frames: list[FrameType]) -> bool:
    """Whether this uses for the first time what a checkpoint has brought."""
    first, *_ = modules = [module_of(frame) for frame in frames]
    in_optimizer = first.startswith("torch.optim.") and all(m.startswith("torch.") for m in modules)
    return in_optimizer or first == "lightning_app.strategies.loaders.shards"


PATIENCE_S = 5.0  # of a rank with the others, at its end
HEARSAY_S = 3.0  # another rank tells before it ends, on a busy machine a little later


def tell(line: str, parent: int) -> None:
    """Print a user's error: once if the first rank has it as well, else with the rank that has it.

    Args:
        line: What is wrong.
        parent: The process that started this one: Lightning's first rank, or a launcher, which
            ends this one if another has failed.
    """
    rank: int = getattr(rank_zero_only, "rank", 0)
    store = _store()
    liveness.write_error_file(line)
    if rank == 0:
        print(f"{program()}: error: {line}", file=sys.stderr)
        if store is not None:  # which ends with this process
            store.set("told", "")
            _wait(lambda: store.add("heard", 0) >= dist.get_world_size() - 1)
        return
    if store is None:
        # The first of a host tells it there; the others of that host are soon ended.
        limit_s = PATIENCE_S * (4 if local_rank(os.environ) else 1)
        told = _wait(lambda: os.getppid() != parent, limit_s)
    else:
        try:
            told = _wait(lambda: store.check(["told"])) and store.add("heard", 1) > 0
        except RuntimeError:  # the first rank has ended by another error
            told = False
    if not told:
        line = line if line.startswith(where()) else f"{where()}: {line}"
        print(f"{program()}: error: {line}", file=sys.stderr)
        if store is not None:
            with suppress(RuntimeError):
                store.set("told", "")


def where() -> str:
    """This rank and its machine, for a message that others may print, too."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return f"rank {rank} on {socket.gethostname()}"


def tell_traceback(error: Exception) -> int:
    """Print an error of one of several ranks, with that rank, before the others notice.

    Returns:
        The status to end with; 0 if the rank is the only one, whose error is left to Python.
    """
    store = _store()
    if store is None or dist.get_world_size() == 1:
        return 0
    text = "".join(traceback.format_exception(error))
    with deaf():
        if (of_another := _of_another(error)) is not None:
            if found := ranks.failed(within_s=HEARSAY_S):
                print(f"{program()}: error: {found[0]}", file=sys.stderr)
                return found[1]
            place = saves_at(of_another)
            if (line := liveness.why(is_timeout(of_another), place)) is not None:
                if line:
                    print(f"{program()}: error: {line}", file=sys.stderr)
                    liveness.write_error_file(line, text)
                return 1
        cause = f"{type(error).__name__}: {first_line(error)}"
        liveness.tell_own(cause)
        liveness.write_error_file(cause, text)
        key = f"error on {socket.gethostname()}: {_digest(text)}"
        if _is_printed(store, key):
            print(f"{where()}: the same error: {cause}", file=sys.stderr)
        else:
            print(f"{where()}:\n{text}", end="", file=sys.stderr, flush=True)
            liveness.in_time(lambda: store.set(f"{key} is printed", ""), liveness.STORE_S)
    return 1


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()  # file names in it are any


def _is_printed(store: Any, key: str) -> bool:
    """Whether another rank of this host has printed the same: the first that asks is to do it.

    The others do it themselves if it has not in time, and so may have ended before it could.
    """

    def asked() -> bool:
        is_first = store.add(key, 1) == 1
        return not is_first and _wait(lambda: store.check([f"{key} is printed"]), HEARSAY_S)

    return bool(liveness.in_time(asked, HEARSAY_S + liveness.STORE_S))


_ENDED = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "No route to host",
    "Connection refused",
    "remote process exiting",  # NCCL
)
_IN_VAIN = ("Timed out waiting", "timed out", "Connection timed out", "Watchdog caught")


_TALKS_TO_RANKS = ("torch.distributed", "torch.autograd", "torch.nn.parallel", "lightning_app.")


def is_of_another(error: BaseException) -> bool:
    """Whether an error is that another rank has ended, or was waited for in vain.

    Or it was raised as that was handled, by the user's code or a library.
    """
    return _of_another(error) is not None


def _of_another(error: BaseException) -> BaseException | None:
    link: BaseException | None = error
    seen: list[BaseException] = []  # one may be the cause of itself
    while link is not None and not isinstance(link, UsageError):
        if any(link is each for each in seen):
            return None
        if _says_another(link):
            return link
        seen.append(link)
        link = link.__cause__ or link.__context__
    return None


def _says_another(error: BaseException) -> bool:
    last = frames_of(error)[-1:]
    if not any(module_of(frame).startswith(_TALKS_TO_RANKS) for frame in last):
        return False  # a data set's files may be on a server that does not answer, too
    is_ended = isinstance(error, (ConnectionError, dist.DistNetworkError))
    return is_ended or any(text in str(error) for text in _ENDED) or is_timeout(error)


def is_timeout(error: BaseException) -> bool:
    """Whether an error is that another rank was waited for in vain."""
    is_collective = isinstance(error, (RuntimeError, TimeoutError))
    return is_collective and any(text in str(error) for text in (*_IN_VAIN, "waited"))


def saves_at(error: BaseException) -> str:
    """Where the user's code calls for a checkpoint that an error came of; empty if it does not."""
    for caller, frame in pairwise(frames_of(error)):
        if frame.f_code is Trainer.save_checkpoint.__code__ and is_users(caller):
            return f"trainer.save_checkpoint, by {caller.f_code.co_name} of {module_of(caller)}"
    return ""


def another_rank_told(error: BaseException) -> bool:
    """Whether an error is that another rank has ended, after it told the user what is wrong."""
    store = _store()
    if not is_of_another(error) or store is None:
        return False

    def has_told() -> bool:
        # Not by the store's own wait, which writes to stderr where it was in vain.
        return _wait(lambda: store.check(["told"]), HEARSAY_S) and store.add("heard", 1) > 0

    return bool(liveness.in_time(has_told, HEARSAY_S + liveness.STORE_S))


def _store() -> Any:
    """What the ranks of a process group share; `None` without a group."""
    connected = dist.is_available() and dist.is_initialized()
    return dist.distributed_c10d._get_default_store() if connected else None


def _wait(happened: Callable[[], bool], limit_s: float = PATIENCE_S) -> bool:
    """Whether something happens in time."""
    deadline = time.monotonic() + limit_s
    while not (result := happened()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return result
