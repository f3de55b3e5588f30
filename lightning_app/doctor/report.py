"""The facts and findings as a report to read, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from textwrap import indent, wrap
from typing import Any

from rich.box import ASCII2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_app.doctor.diagnose import exit_code
from lightning_app.doctor.facts import SCHEMA, Facts
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.plan import lightning_pick, train_line
from lightning_app.doctor.rows import not_learnt, rows


def as_json(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns the report as plain JSON values; ``docs/doctor.md`` documents them.

    Args:
        facts: What is known of the machine.
        findings: Its diagnosis.
    """
    return {
        "schema": SCHEMA,
        "exit_code": exit_code(findings),
        "findings": [asdict(finding) for finding in findings],
        "lightning_picks": asdict(lightning_pick(facts)),
        "train": asdict(train_line(facts)),
        "facts": facts.to_json(),
    }


def render(facts: Facts, findings: Sequence[Finding], console: Console) -> None:
    """Prints the report: the layers, the findings, and what to run.

    Args:
        facts: What is known of the machine.
        findings: Its diagnosis.
        console: Where to print it; colour and width are the console's.
    """
    if facts.source is not None:
        console.print(Text(f"From recorded facts: {facts.source}", style="italic"))
    for parts in console.render_lines(_layers(facts)):
        text = Text.assemble(*((part.text, part.style or "") for part in parts))
        text.rstrip()  # a table fills its last column with blanks
        console.print(text, soft_wrap=True)
    _print_unknown(facts, console)
    if not findings:
        console.print(Text(_all_well(facts), style="bold green"))
    for number, finding in enumerate(findings, 1):
        _print_finding(number, finding, console)
    line = train_line(facts)
    console.print(Text("\nThis machine can run", style="bold"))
    _print_indented(line.command, 4, console, "bold cyan")
    _print_indented(f"({line.reason})", 4, console)


def _layers(facts: Facts) -> Table:
    table = Table(box=ASCII2, show_edge=False, pad_edge=False)
    table.add_column("Layer", no_wrap=True)
    table.add_column("What it sees", overflow="fold")
    for layer, seen in rows(facts):
        table.add_row(Text(layer), Text("\n".join(seen)))
    return table


def _print_unknown(facts: Facts, console: Console) -> None:
    lines = not_learnt(facts)
    if lines:
        console.print(Text("\nCould not be learnt", style="bold"))
    for line in lines:
        _print_indented(f"- {line}", 3, console)
    console.print()


def _print_finding(number: int, finding: Finding, console: Console) -> None:
    style = "bold red" if finding.severity == "problem" else "bold yellow"
    console.print(Text(f"{number}. {finding.cause} ({finding.severity})", style=style))
    _print_indented(finding.explanation, 3, console)
    for line in finding.evidence:
        _print_indented(f"- {line}", 3, console)
    _print_indented(f"Remedy: {finding.remedy}", 3, console)
    if finding.command is not None:
        _print_indented(finding.command, 7, console, "cyan")


def _print_indented(text: str, num_columns: int, console: Console, style: str = "") -> None:
    # Commands, flags and addresses have hyphens, and are copied.
    lines = wrap(text, console.width - num_columns, break_on_hyphens=False)
    console.print(Text(indent("\n".join(lines), " " * num_columns), style=style), soft_wrap=True)


def _all_well(facts: Facts) -> str:
    pick = lightning_pick(facts)
    if pick.accelerator is None:
        return "Nothing found; PyTorch could not be asked."
    if pick.accelerator == "cpu":
        return "Nothing is hidden: no GPU was found on this machine."
    return "All GPUs can be used."
