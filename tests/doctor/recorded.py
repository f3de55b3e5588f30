"""The recorded machines, for the tests that read them."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_app.doctor.facts import Facts

FOLDER = Path(__file__).with_name("machines")
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def machine(name: str) -> Facts:
    """Reads one recorded machine."""
    return Facts.from_json(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
