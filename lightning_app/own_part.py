"""What this project keeps in a checkpoint is under one key, as all others are the user's."""

from typing import Any

KEY = "lightning_app"


def own_part(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """This project's part of a checkpoint, to be written to or read; empty if it has none."""
    part: dict[str, Any] = checkpoint.setdefault(KEY, {})
    return part
