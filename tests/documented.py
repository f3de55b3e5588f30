"""The table in `docs/faults.md`, from which tests take what they expect."""

import re
from dataclasses import dataclass
from functools import cache

from tests.command import ROOT


@dataclass
class Fault:
    """A row of it."""

    exit_code: str
    tests: list[str]


@cache
def faults() -> dict[str, Fault]:
    """The rows, by what goes wrong."""
    rows = {}
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0] != "fault" and not cells[0].startswith("---"):
            rows[cells[0]] = Fault(cells[2], re.findall(r"`(test_\w+)`", cells[4]))
    return rows


def exit_code(fault: str, signum: int = 0) -> int:
    """The documented one, of a fault that may be a signal."""
    code = faults()[fault].exit_code
    return 128 + signum if signum and "128 + n" in code else int(code.split(",")[0])
