"""What the user got wrong, said in one line: the value, what is allowed, the remedy."""

import builtins
import difflib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from importlib.metadata import version
from itertools import groupby
from types import FrameType

from lightning_app.command import command

MAX_CHARS = 1000
ARRAY_DEFAULT = (
    "one of its arguments has an array for its default, which cannot be compared with what a "
    "command line gives: let it be a list, or None"
)


class UsageError(Exception):
    """Something the user got wrong. Its text is the line that is shown."""


class RunError(Exception):
    """What went wrong at run time and is told in one line, which is its text.

    Attributes:
        status: The exit status of the run.
    """

    status = 1


def printable(text: str) -> str:
    """A text in which nothing moves a terminal's cursor, or changes its colours."""
    return "".join(
        c if c.isprintable() or c == "\n" else " " if c.isspace() else "\ufffd" for c in text
    )


def what_it_says(error: BaseException) -> str:
    """An error's text, with its type where that says more than the text alone."""
    speaks = isinstance(error, (ImportError, RuntimeError, ValueError, UsageError))
    speaks |= type(error).__name__ == "MisconfigurationException"
    speaks |= isinstance(error, OSError) and error.strerror is not None
    return str(error) if speaks and str(error) else f"{type(error).__name__}: {error}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def lightning_lacks(names: Iterable[str]) -> str:
    """The line that Lightning has not all that the split itself needs."""
    return (
        f"Lightning {version('lightning')} has no {', '.join(names)}, which this project needs to "
        "split batches and to keep its place in them: install the version that constraints.txt "
        "names, or use Lightning's own Trainer"
    )


def missing_import(error: ImportError) -> str:
    """The name that an import has not found."""
    name = re.search(r"cannot import name '(\w+)'", str(error))
    return f"{error.name}.{name[1]}" if name else str(error.name)


_NOT_THE_USERS = {
    "aiohappyeyeballs",
    "aiohttp",
    "fsspec",
    "jsonargparse",
    "lightning",
    "lightning_app",
    "lightning_utilities",
    "numpy",
    "pytorch_lightning",
    "rich",
    "tensorboard",
    "torch",
    "torchmetrics",
    "typeshed_client",
    "yaml",
}
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")


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
        if any(map(is_users, frames_of(link))) and not isinstance(link, (ValueError, UsageError)):
            return link
        link = link.__cause__ or link.__context__
    return None


def frames_of(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def module_of(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name


def is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    is_pythons = file.startswith((_STANDARD_LIBRARY, "<frozen")) and "site-packages" not in file
    return not is_pythons and module_of(frame).split(".")[0] not in _NOT_THE_USERS


def one_line(message: str) -> str:
    """Make one line of an error's text.

    jsonargparse reports a value that fits no type as a tree over many lines, with every type that
    was tried. What is kept of it: the flag, the value, and why it was refused.

    Args:
        message: The text of an exception, of any number of lines.

    Returns:
        The line, without a line break.
    """
    message = re.sub(r"\s+Subclass types expect one of:(\n\s+- an? .*)+", "", message)
    reasons = _reasons(message)
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    flag = ".".join(key for key, _ in groupby(keys))
    value = _value(message)
    if reasons is None:
        line = re.sub(r'^Parser key "([\w.]+)": ', r"--\1: ", " ".join(message.split()))
        line = re.sub(r" - Parser key .*", "", line)
    elif flag:
        subject = f"--{flag.removeprefix('trainer.')}" + (f" {value}" if value is not None else "")
        line = f"{subject}: {reasons}"
    else:
        line = reasons
    line = re.sub(
        r"^ambiguous option: (--\w+) could match (--\w+),.*", r"\1: did you mean \2?", line
    )
    line = re.sub(r"^Unexpected config: *(.*)", _no_mapping, line)
    line = re.sub(r"^(--[\w.]+ ([\w-]+)): it must be (.*)", _nearest, line)
    line = re.sub(r"^argument (?:--[\w.]+\+?/)*?--([\w.]+)(?:/--[\w.]+\+?)*: ", r"--\1: ", line)
    line = re.sub(r"The truth value of an array .*", ARRAY_DEFAULT, line)
    is_no_subclass = "does not correspond to a subclass of" in line
    if is_no_subclass and any(map(_is_of_pytorch_lightning, re.findall(r"[\w.]+\.\w+", message))):
        line += "; a class of pytorch_lightning is another one: `import lightning.pytorch as pl`"
    unknown = re.match(r"unrecognized|--[\w.]+: expected|Subcommand", line)
    return _plain(f"{line}; `{command()} --help all` lists every flag" if unknown else line)


def _is_of_pytorch_lightning(path: str) -> bool:
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    bases = found.__mro__ if isinstance(found, type) else ()
    return any(base.__module__.startswith("pytorch_lightning.") for base in bases)


def _no_mapping(told: re.Match[str]) -> str:
    found = told[1] if told[1] and not told[1].startswith("#") else "empty"
    return f"--config is {found}: a config has names and values, as in `trainer: {{max_epochs: 1}}`"


def _nearest(told: re.Match[str]) -> str:
    """Which of the words that are allowed was meant by one that is not."""
    listed = re.split(r",? or |, ", told[3])
    words = [word for word in listed if re.fullmatch(r"(?=.*[a-z])[\w-]+", word)]
    words = [word for word in words if not isinstance(getattr(builtins, word, None), type)]
    alike = difflib.get_close_matches(told[2].lower(), words, n=2)
    return (
        f"{told[1]}: did you mean {' or '.join(alike)}? It must be {told[3]}" if alike else told[0]
    )


def _plain(line: str) -> str:
    """Without control characters, which a terminal would obey, and of a length to read."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
    return line if len(line) <= MAX_CHARS else f"{line[:MAX_CHARS]}…"


def _reasons(message: str) -> str | None:
    """Why each type refused the value; `None` where the text is not such a report."""
    if positive := re.search(r"Not of type Positive(Int|Float)", message):
        return f"it must be a {'whole ' * (positive[1] == 'Int')}number above 0"
    match = re.search(r"Errors:\n((?:(?!Errors:).)*?)\n\s*Given value type", message, re.DOTALL)
    if match is None:
        only = re.search(r"Expected a (.*?)\. Got value", message)
        return only and f"it must be {_type(only[1])}"
    texts = [" ".join(reason.split()) for reason in re.split(r"\n?\s*- ", match[1]) if reason]
    # A class's own refusal says more than that the value is not of another type.
    classes = [text.split("': ", 1)[1] for text in texts if text.startswith("Problem with given")]
    texts = classes or [text for text in texts if "NoneType" not in text] or texts[:1]
    texts = [t for t in texts if not re.match(r"Not a valid subclass of \w+$", t)] or texts
    nested = re.search(r"Expected a (.*?)\.? Got value", texts[0])
    expected = [
        text.removeprefix("Expected a ") for text in texts if text.startswith("Expected a ")
    ]
    if nested or len(expected) == len(texts):
        types = [nested[1]] if nested else expected
        return "it must be " + " or ".join(dict.fromkeys(map(_type, types)))
    return "; ".join(dict.fromkeys(texts))


def _type(text: str) -> str:
    """`<class 'int'>` → `int`; `typing.Literal['a', 'b']` → `a, b`."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"^dot import path.*", "the path of a class", text)
    return re.sub(r"typing\.Literal\[(.*?)\]", r"\1", text).replace("'", "")


def _value(message: str) -> str | None:
    patterns = (
        r"Got value: (.*)",
        r"Given value: (?!.*NestedArg|.*Namespace)(.*)",
        r"Not of type \w+: (\S+) does not",
        r"Not of type \w+: .* '(.*)'",
    )
    matches = (re.search(pattern, message) for pattern in patterns)
    return next((match[1].strip() for match in matches if match), None)
