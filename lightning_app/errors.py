"""What the user got wrong, said in one line: the value, what is allowed, the remedy."""

import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_only

HELP = "`python train.py --help` lists every flag"


class UsageError(Exception):
    """Something the user got wrong. Its text is the line that is shown."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


_NOT_THE_USERS = {
    "__main__",
    "argparse",
    "importlib",
    "jsonargparse",
    "lightning",
    "lightning_app",
    "torch",
    "typeshed_client",
    "yaml",
}


def users_bug(error: BaseException) -> BaseException | None:
    """What the user's own module has raised as it was imported or its class made, if it did.

    Args:
        error: What came of it: jsonargparse reports it as a value that fits no type.

    Returns:
        The error in the user's code; `None` if there is none, or it tells of a value
        (`ValueError`).
    """
    link: BaseException | None = error
    while link is not None:
        if any(map(_is_users, _frames(link))) and not isinstance(link, (ValueError, UsageError)):
            return link
        link = link.__cause__ or link.__context__
    return None


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _module(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name


def _is_users(frame: FrameType) -> bool:
    return _module(frame).split(".")[0] not in _NOT_THE_USERS


def refusal(error: Exception, checkpoint: str | None) -> str | None:
    """What the user got wrong, if that is why a run has failed.

    Args:
        error: What ended it.
        checkpoint: The path of the checkpoint that it began with.
    """
    frames, message = _frames(error), str(error)
    if isinstance(error, MisconfigurationException):
        return message
    if isinstance(error, ValueError) and _module(frames[-1]).startswith("lightning.pytorch.loops"):
        return message  # a flag's value that the loops do not like
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
    if "loading state_dict" not in message and any(map(_is_users, frames[restoring[0] :])):
        return None
    why = message if isinstance(error, (RuntimeError, ValueError)) else f"{type(error).__name__}"
    return f"--ckpt_path {checkpoint}: of another model, or of other sizes: {why}"


def _restores(frame: FrameType) -> bool:
    """Whether this is Lightning, taking a run's state from a checkpoint."""
    connector = "lightning.pytorch.trainer.connectors.checkpoint_connector"
    name = frame.f_code.co_name.lstrip("_")
    return _module(frame) == connector and name.startswith(("re", "load"))


PATIENCE_S = 5.0  # of a rank with the others, at its end


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
        store.wait(["told"], timedelta(seconds=PATIENCE_S))
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


def one_line(message: str) -> str:
    """Make one line of an error's text.

    jsonargparse reports a value that fits no type as a tree over many lines, with every type that
    was tried. What is kept of it: the flag, the value, and why it was refused.

    Args:
        message: The text of an exception, of any number of lines.

    Returns:
        The line, without a line break.
    """
    reasons = _reasons(message)
    flag = ".".join(re.findall(r'Parser key "([\w.]+)"', message))
    value = _value(message)
    if reasons is None:
        line = " ".join(message.split())
    elif flag:
        subject = f"--{flag.removeprefix('trainer.')}" + (f" {value}" if value is not None else "")
        line = f"{subject}: {reasons}"
    else:
        line = reasons
    line = re.sub(r"^ambiguous option: (--\w+) could match (--\w+),.*", r"\1: is it \2?", line)
    line = re.sub(r"^argument (?:--[\w.]+\+?/)*?--([\w.]+)(?:/--[\w.]+\+?)*: ", r"--\1: ", line)
    unknown = re.match(r"unrecognized|--[\w.]+: expected|Subcommand", line)
    return f"{line}; {HELP}" if unknown else line


def _reasons(message: str) -> str | None:
    """Why each type refused the value; `None` where the text is no such report."""
    if positive := re.search(r"Not of type Positive(Int|Float)", message):
        return f"it must be a {'whole ' * (positive[1] == 'Int')}number above 0"
    match = re.search(r"Errors:\n(.*?)\n\s*Given value type", message, re.DOTALL)
    if match is None:
        only = re.search(r"Expected a (.*?)\. Got value", message)
        return only and f"it must be {_type(only[1])}"
    texts = [" ".join(reason.split()) for reason in re.split(r"\n?\s*- ", match[1]) if reason]
    # A class's own refusal says more than that the value is no other type.
    classes = [text.split("': ", 1)[1] for text in texts if text.startswith("Problem with given")]
    texts = classes or [text for text in texts if "NoneType" not in text]
    nested = re.search(r"Expected a (.*?)\.? Got value", texts[0])
    expected = [
        text.removeprefix("Expected a ") for text in texts if text.startswith("Expected a ")
    ]
    if nested or len(expected) == len(texts):
        types = [nested[1]] if nested else expected
        return "it must be " + " or ".join(dict.fromkeys(map(_type, types)))
    return "; ".join(texts)


def _type(text: str) -> str:
    """`<class 'int'>` → `int`; `typing.Literal['a', 'b']` → `a, b`."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"^dot import path.*", "the path of a class", text)
    return re.sub(r"typing\.Literal\[(.*?)\]", r"\1", text).replace("'", "")


def _value(message: str) -> str | None:
    patterns = (
        r"Got value: (.*)",
        r"Given value: (?!NestedArg|Namespace)(.*)",
        r"Not of type \w+: (\S+) does not",
        r"Not of type \w+: .* '(.*)'",
    )
    matches = (re.search(pattern, message) for pattern in patterns)
    return next((match[1].strip() for match in matches if match), None)
