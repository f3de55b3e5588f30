"""Runs commands in turn, round by round, and tells the medians and their ratios."""

import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

Figures = dict[str, list[float]]


def machine() -> str:
    """The kind of machine, without its name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{model}, {os.cpu_count()} cores, {gpu}, {versions}"


def in_turn(commands: Mapping[str, Sequence[str]], rounds: int, timeout_s: float = 300) -> Figures:
    """Run each command once a round; each prints a JSON object with one number as its last line.

    Args:
        commands: The arguments of `python`, by the name of the variant.
        rounds: How often each is run.
        timeout_s: For one run.

    Returns:
        The numbers of each variant, in the order of the rounds.

    Raises:
        RuntimeError: A command failed; with what it printed.
    """
    figures: Figures = {name: [] for name in commands}
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(rounds):
        for name, arguments in commands.items():
            run = subprocess.run(
                [sys.executable, *arguments],
                env=env,
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
            found = [line for line in run.stdout.splitlines() if line.startswith("{")]
            if run.returncode or not found:
                raise RuntimeError(f"{name} failed:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
            (number,) = json.loads(found[-1]).values()
            figures[name].append(number)
    return figures


def ratio(figures: Figures, over: str, under: str) -> tuple[float, float, float]:
    """The median of the ratios round by round, with the least and the greatest."""
    ratios = [a / b for a, b in zip(figures[over], figures[under], strict=True)]
    return median(ratios), min(ratios), max(ratios)


def report(title: str, figures: Figures, ratios: Sequence[tuple[str, str]], unit: str) -> str:
    """A table of the medians, and of the ratios asked for, in Markdown."""
    lines = [
        f"### {title}",
        "",
        f"| variant | {unit} | least | greatest |",
        "| --- | --- | --- | --- |",
    ]
    for name, values in figures.items():
        numbers = (median(values), min(values), max(values))
        lines.append(f"| {name} | " + " | ".join(f"{number:.4g}" for number in numbers) + " |")
    lines += ["", "| ratio | median | least | greatest |", "| --- | --- | --- | --- |"]
    for over, under in ratios:
        numbers = ratio(figures, over, under)
        lines.append(f"| {over} ÷ {under} | " + " | ".join(f"{n:.2f}" for n in numbers) + " |")
    return "\n".join(lines)


def write_csv(path: Path, figures: Figures) -> None:
    """A row for each variant and round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "round", "figure"])
        for name, values in figures.items():
            writer.writerows([name, number, value] for number, value in enumerate(values))
