"""What looks like a secret by its name is not written down: a run has it, its files do not.

Covers this project's own files: `config.yaml`, `hparams.yaml`, the event files and checkpoints.
Loggers of the user's choice get everything, as Lightning gives it to them.
"""

import re
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

MASK = "***"
_PARTS = (
    r"pass(?:word|wd|phrase)s?|secret(?:_key|s)?|api_?keys?|access_?key|private_?key|credentials?"
)
# Not `pad_token` and the like, which are words of a language model.
_TOKEN = r"(?:\w*(?:auth|access|api|bearer|hf|refresh|session|github|wandb)_?)?token"
_IS_SECRET = re.compile(rf"(?:.*_)?(?:{_PARTS})|{_TOKEN}", re.IGNORECASE)
_IN_TEXT = re.compile(
    rf"(\b(?:(?:\w*_)?(?:{_PARTS})|{_TOKEN})[\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|[^\s,}}]+)",
    re.IGNORECASE,
)


def is_secret(name: object) -> bool:
    """Whether a parameter of this name holds a secret, as `password` or `api_key`."""
    return isinstance(name, str) and bool(_IS_SECRET.fullmatch(name))


def masked(value: Any) -> Any:
    """A copy of dictionaries, namespaces and lists in which the texts of secrets are masked."""
    if isinstance(value, dict):
        return {
            key: MASK if is_secret(key) and isinstance(entry, str) else masked(entry)
            for key, entry in value.items()
        }
    if isinstance(value, Namespace):
        copy = type(value)()
        vars(copy).update(masked(vars(value)))
        return copy
    return list(map(masked, value)) if type(value) is list else value


def masked_arguments(arguments: list[str]) -> Iterator[str]:
    """A command line without the values of secrets."""
    hides = False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        names_secret = flag.startswith("--") and is_secret(flag.lstrip("-").rpartition(".")[2])
        if names_secret and equals:
            yield f"{flag}={MASK}"
        else:
            yield MASK if hides and not flag.startswith("--") else _IN_TEXT.sub(_mask, argument)
        hides = names_secret and not equals


def _mask(found: re.Match[str]) -> str:
    return found[1] + MASK


def first_masked(value: Any, where: str = "") -> str | None:
    """The name of a secret that was masked in a file that is now read; `None` without one."""
    if isinstance(value, (dict, Namespace)):
        entries = value if isinstance(value, dict) else vars(value)
        for key, entry in entries.items():
            name = f"{where}.{key}" if where else str(key)
            if entry == MASK and is_secret(key):
                return name
            if found := first_masked(entry, name):
                return found
    if isinstance(value, list):
        return next(filter(None, (first_masked(entry, where) for entry in value)), None)
    return None
