"""The command by which this program was started, as messages name it."""

import sys
from pathlib import PurePath

INSTALLED = "train-any"


def command() -> str:
    """What a user types to start it again in the script's folder; else `python train.py`."""
    path = PurePath(sys.argv[0] if sys.argv else "")
    if path.name == "__main__.py" and path.parent.name == "lightning_app":
        return "python -m lightning_app"
    if path.stem == INSTALLED:
        return INSTALLED
    is_script = path.suffix == ".py" and not path.stem.endswith(("__main__", "kernel_launcher"))
    return f"python {path.name}" if is_script else "python train.py"  # a notebook, say


def program() -> str:
    """The name before each of its messages: `train.py`, or what it was started as."""
    return command().removeprefix("python ").removeprefix("-m ")
