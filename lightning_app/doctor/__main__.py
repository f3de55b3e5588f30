"""``python -m lightning_app.doctor``: why does PyTorch see fewer GPUs than the machine has?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from lightning_app.doctor import Facts, diagnose, exit_code, probe
from lightning_app.doctor.redact import redact
from lightning_app.doctor.report import as_json, render
from lightning_app.errors import first_line, printable
from lightning_app.waiting import nothing_to_wait_for, say_if_slow

MAX_BYTES = 10_000_000  # of a file with facts, which has a few thousand


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report of this machine, or of recorded facts.

    Args:
        argv: Arguments without the program's name; those of the process if left out.

    Returns:
        0 if all GPUs can be used, 1 if one is hidden or unusable, 2 for a file without facts.

    Raises:
        SystemExit: With code 2 and one line on stderr, for a wrong argument.
    """
    options = _parser().parse_args(argv)
    say_if_slow("asking this machine")
    try:
        facts = probe(uuids=True) if options.facts is None else read_facts(options.facts)
    except (OSError, ValueError, RecursionError) as error:
        print(f"doctor: --facts {options.facts}: {_one_line(error)}", file=sys.stderr)
        return 2
    finally:
        nothing_to_wait_for()
    facts = _printable(facts if options.uuids else redact(facts))
    findings = diagnose(facts)
    if isinstance(sys.stdout, TextIOWrapper):
        # A name that the terminal's encoding lacks must not end the report.
        sys.stdout.reconfigure(errors="replace")
    if options.json:
        print(json.dumps(as_json(facts, findings), indent=2))
    else:
        render(facts, findings, Console(soft_wrap=False))
    return exit_code(findings)


def read_facts(path: Path) -> Facts:
    """Reads recorded facts, or those in a report that ``--json`` printed.

    Args:
        path: A JSON file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it holds no facts; the message names the field. Or if it is too large.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes are not read")
    value = json.loads(content.decode())
    return Facts.from_json(
        value["facts"] if isinstance(value, dict) and "facts" in value else value
    )


def _printable(facts: Facts) -> Facts:
    """The facts without what would be a command to a terminal: names come from anywhere."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {clean(key): clean(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return list(map(clean, value))
        return printable(value) if isinstance(value, str) else value

    return Facts.from_json(clean(facts.to_json()))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"doctor: {message} (see --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lightning_app.doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--uuids", action="store_true", help="show UUIDs and serial numbers of GPUs"
    )
    parser.add_argument(
        "--facts", type=Path, metavar="FILE", help="report on recorded facts instead"
    )
    return parser


def _one_line(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or first_line(error)


if __name__ == "__main__":
    sys.exit(main())
