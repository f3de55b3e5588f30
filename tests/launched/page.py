"""The commands of `docs/beyond_one_machine.md`, as they are written there."""

import re

from tests.command import ROOT

PAGE = (ROOT / "docs" / "beyond_one_machine.md").read_text()
COMMANDS: list[str] = [
    line
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if not kind
]


def command(part: str) -> str:
    """The one that has some part."""
    (found,) = [one for one in COMMANDS if part in one]
    return found
