"""What the benchmarks share: measure in turn, tell medians and spread, name the machine.

Whatever is compared runs interleaved (A B C, C B A, …), so that a machine that is slower for a
while is slower for all. A ratio is taken within each round, and the median of those is told. Beside
it stands the ratio of the lowest figures, which other work on the machine disturbs least.
"""

import argparse
import csv
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 900  # of one measurement
MARK = "benchmark: "  # begins the line in which a process tells its figures


@dataclass(frozen=True)
class Ratio:
    """One variant's figure over another's.

    Attributes:
        over: The variant above the line.
        under: The variant below it.
        bar: What the ratio should be, as it is to be printed.
    """

    over: str
    under: str
    bar: str = ""


@dataclass
class Comparison:
    """Variants that were measured in turn.

    Attributes:
        title: What they have in common.
        unit: Of the figures.
        values: Variant → its figure in each round.
        ratios: Those worth telling.
        skipped: Variant → why it was not measured.
    """

    title: str
    unit: str
    values: dict[str, list[float]]
    ratios: Sequence[Ratio] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    def ratio(self, ratio: Ratio) -> list[float]:
        """A ratio in each round; empty if one of its variants was skipped."""
        over, under = self.values.get(ratio.over, []), self.values.get(ratio.under, [])
        return [a / b for a, b in zip(over, under, strict=False)]

    def __str__(self) -> str:
        """A table of medians and spread, then one of ratios."""
        width = max(map(len, [self.unit, *self.values, *self.skipped])) + 2
        lines = [f"\n{self.title}", f"  {self.unit:{width}} {'median':>10}   lowest-highest"]
        for name, values in self.values.items():
            spread = f"{min(values):,.2f}-{max(values):,.2f}"
            lines.append(f"  {name:{width}} {median(values):10,.2f}   {spread}")
        lines += [f"  {name:{width}} skipped: {why}" for name, why in self.skipped.items()]
        for ratio in self.ratios:
            if values := self.ratio(ratio):
                name, bar = f"{ratio.over} / {ratio.under}", ratio.bar and f"   bar: {ratio.bar}"
                spread = f"{min(values):.3f}-{max(values):.3f}"
                lowest = min(self.values[ratio.over]) / min(self.values[ratio.under])
                figures = f"{median(values):.3f}   {spread}   of the lowest: {lowest:.3f}"
                lines.append(f"  {name:{2 * width}} {figures}{bar}")
        return "\n".join(lines)


def compare(
    title: str,
    unit: str,
    variants: Mapping[str, Callable[[], float]],
    rounds: int,
    ratios: Sequence[Ratio] = (),
    skipped: Mapping[str, str] | None = None,
) -> Comparison:
    """Measure each variant once a round, every other round in the opposite order.

    Args:
        title: What the variants have in common.
        unit: Of the figures.
        variants: Name → a function that measures it once.
        rounds: How often each is measured.
        ratios: Those to tell.
        skipped: Variants that are left out, and why.

    Returns:
        The figures, which have been printed.
    """
    values: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds):
        for name in list(variants)[:: 1 if i % 2 == 0 else -1]:
            values[name].append(variants[name]())
    comparison = Comparison(title, unit, values, ratios, skipped or {})
    print(comparison, flush=True)
    return comparison


def tell(**figures: float) -> None:
    """Tell the figures of this process to the one that started it by `run`."""
    print(f"\n{MARK}{json.dumps(figures)}", flush=True)


def run(*argv: str, **variables: str) -> dict[str, float]:
    """Run `python *argv` in a fresh process and an empty folder, with one thread a process.

    Args:
        argv: What comes after `python`.
        variables: Environment variables to set.

    Returns:
        What the process told by `tell`, and `wall_s`, the seconds from its start to its end.

    Raises:
        RuntimeError: The process failed.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    with tempfile.TemporaryDirectory() as folder:
        start_s = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        wall_s = time.perf_counter() - start_s
    if done.returncode:
        raise RuntimeError(f"python {' '.join(argv)} failed:\n{done.stderr[-3000:]}")
    told = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    figures: dict[str, float] = json.loads(told[-1].removeprefix(MARK)) if told else {}
    return figures | {"wall_s": wall_s}


def machine() -> str:
    """What the figures depend on: the processor, the GPU and the versions."""
    parts = [
        f"{_cpu_model()}, {os.cpu_count()} cores",
        f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
        if torch.cuda.is_available()
        else "no GPU",
        f"{platform.system()}, Python {platform.python_version()}",
        f"torch {torch.__version__}, lightning {version('lightning')}",
    ]
    return "; ".join(parts)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The flags that every command has.

    Args:
        doc: The command's docstring; its first line is the help.
        rounds: How often each variant is measured if not told otherwise.
    """
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--rounds", type=int, default=rounds, help="measurements of each variant")
    made.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="for CSV and plot")
    made.add_argument("--quick", action="store_true", help="tiny sizes: only see that it runs")
    return made


def write(comparisons: Sequence[Comparison], out: Path, name: str) -> None:
    """Write every figure to `out/name.csv`, and a plot beside it if matplotlib is there."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["group", "variant", "unit", "round", "value"])
        for group in comparisons:
            for variant, values in group.values.items():
                for i, value in enumerate(values):
                    rows.writerow([group.title, variant, group.unit, i, f"{value:.6g}"])
    (out / f"{name}.machine.txt").write_text(machine() + "\n")
    print(f"\nWritten to {out / name}.csv")
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        print("No plot: matplotlib is not installed")
        return
    pyplot.switch_backend("agg")
    height = sum(1 + 0.4 * len(group.values) for group in comparisons)
    figure, axes = pyplot.subplots(len(comparisons), figsize=(8, height), squeeze=False)
    for axis, group in zip(axes[:, 0], comparisons, strict=True):
        names = list(group.values)[::-1]  # the first one on top
        medians = [median(group.values[name]) for name in names]
        below = [m - min(group.values[name]) for name, m in zip(names, medians, strict=True)]
        above = [max(group.values[name]) - m for name, m in zip(names, medians, strict=True)]
        axis.barh(names, medians, xerr=[below, above], capsize=3)
        axis.set(title=group.title, xlabel=group.unit)
    figure.tight_layout()
    figure.savefig(out / f"{name}.png", dpi=120)
    pyplot.close(figure)
