"""One cause that the doctor names, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lightning_app.doctor.facts import Facts

Severity = Literal["problem", "note"]


@dataclass(frozen=True)
class Finding:
    """A cause with what it rests on and what to do."""

    cause: str
    """Stable name, in kebab-case; listed in ``docs/doctor.md``."""
    explanation: str
    """One sentence."""
    evidence: tuple[str, ...]
    """The values seen."""
    remedy: str
    command: str | None = None
    """A shell line that does it or starts it, where there is one."""
    severity: Severity = "problem"
    """``problem``: a GPU is hidden or unusable; ``note``: worth knowing, nothing is lost."""


Rule = Callable[[Facts], Finding | None]
"""Looks at the facts for one cause; None where it does not apply or cannot be told."""
