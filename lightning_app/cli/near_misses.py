"""The flag that was meant by one that does not exist."""

import difflib
import inspect
import re
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pydoc import locate

from lightning_app.command import command
from lightning_app.errors import UsageError

_UNKNOWN = re.compile(r"(?:[Uu]nrecognized arguments|ambiguous option): (\S+?)(?:[=\s]|$)")
_NOT_ACCEPTED = re.compile(
    r'Parser key "(model|data)".*Option \'(\w+)\' is not accepted', re.DOTALL
)
_OTHER_WORDS = {  # of other trainers, and of Lightning before 2.0
    "checkpoint": "ckpt_path",
    "epochs": "max_epochs",
    "gpus": "devices",
    "learning_rate": "lr",
    "num_gpus": "devices",
    "resume": "ckpt_path",
    "resume_from_checkpoint": "ckpt_path",
    "seed": "seed_everything",
    "steps": "max_steps",
}
_LIKENESS = 0.75
_MOST = 3  # flags that are named


@contextmanager
def flags_named(parser: ArgumentParser, arguments: Sequence[str]) -> Iterator[None]:
    """Say which flag is meant where the parser is given one that it does not know.

    Args:
        parser: It has the flags.
        arguments: What it is given.

    Raises:
        UsageError: A flag is unknown, and one is like it.
    """
    try:
        yield
    except ArgumentError as error:
        if line := _about_unknown(str(error), parser, arguments):
            raise UsageError(line) from None
        raise


def _about_unknown(message: str, parser: ArgumentParser, arguments: Sequence[str]) -> str | None:
    if match := _NOT_ACCEPTED.search(message):
        unknown = f"--{match[1]}.{match[2]}"
    elif match := _UNKNOWN.search(message):
        unknown = match[1]
    else:
        return None
    if unknown.isidentifier():
        subcommands = "fit, validate, test, predict or plan"
        return f"{unknown} is not a flag; a subcommand comes first: {subcommands}"
    flags = {flag for flag in parser._option_string_actions if re.fullmatch(r"--\w+", flag)}
    for group in ("model", "data"):
        names = _parameters(last_given(f"--{group}", arguments))
        flags |= {f"--{group}.{name}" for name in names}
    if unknown in flags:  # it is read as one of the class that was named before
        group, is_its_own, _ = unknown.removeprefix("--").partition(".")
        line = f"{unknown} comes too early: give --{group} first, and then what its class takes"
        return line if is_its_own else None
    if not (alike := _alike(unknown, flags)):
        return None
    line = f"{unknown} is not a flag: did you mean {' or '.join(alike)}?"
    return f"{line} `{command()} --help all` lists every flag"


def last_given(flag: str, arguments: Sequence[str]) -> str:
    """The value that a flag is given; of several, the last; empty if none."""
    values = [""]
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, is_joined, value = argument.partition("=")
        if name == flag:
            values.append(value if is_joined else following)
    return values[-1]


def _parameters(path: str) -> list[str]:
    kind = locate(path)
    if not isinstance(kind, type):
        return []
    takes = inspect.signature(kind).parameters.values()
    return [p.name for p in takes if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _alike(unknown: str, flags: set[str]) -> list[str]:
    name = unknown.removeprefix("--").split(".")[-1]
    names = {flag: flag.removeprefix("--").split(".")[-1] for flag in sorted(flags)}
    for wanted in (name, _OTHER_WORDS.get(name)):
        if same := [flag for flag in names if names[flag] == wanted]:
            return same
    if longer := [flag for flag in names if names[flag].startswith(f"{name}_")]:
        return longer[:_MOST]
    close = difflib.get_close_matches(name, set(names.values()), n=1, cutoff=_LIKENESS)
    return [flag for flag in names if names[flag] in close]
