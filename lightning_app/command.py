"""The command by which this program was started, as messages name it."""

import sys
from pathlib import PurePath

INSTALLED = "train-any"


def command() -> str:
    """What a user types to start it again; `python train.py` stands for scripts of any name."""
    path = PurePath(sys.argv[0] if sys.argv else "")
    if path.name == "__main__.py" and path.parent.name == "lightning_app":
        return "python -m lightning_app"
    return INSTALLED if path.stem == INSTALLED else "python train.py"


def program() -> str:
    """The name before each of its messages: `train.py`, or what it was started as."""
    return command().removeprefix("python ").removeprefix("-m ")
