"""A mechanism that cases guard, and how to do without it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Mechanism:
    """One thing that makes cases right.

    Attributes:
        target: A function's dotted path, below `lightning_app`.
        instead: What is put in its place.
        layout: On which its cases are run.
        cases: Those that fail without it, separated by `; `.
    """

    target: str
    instead: Any
    layout: str
    cases: str

    def off(self) -> AbstractContextManager[Any]:
        """Do without it."""
        return patch(f"lightning_app.{self.target}", self.instead)
