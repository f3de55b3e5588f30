"""Files whose loading would run code, and what tells that it has run."""

import os
from pathlib import Path
from typing import Any

import torch


class Payload:
    """Makes a folder as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self._mark),)


def poison(checkpoint: Path, target: Path, mark: Path, old_format: bool = False) -> Path:
    """Write a whole checkpoint with a payload in it beside a real one.

    Args:
        checkpoint: The real one.
        target: Where to write.
        mark: The folder that the payload makes.
        old_format: Whether it is written as torch did before 1.6.
    """
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["payload"] = Payload(mark)
    torch.save(content, target, _use_new_zipfile_serialization=not old_format)
    return target
