"""Every benchmark runs, on tiny sizes, and tells what it should; how long it takes is not judged."""

import csv
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import order, step_cost, timing
from benchmarks.step_variants import WORKLOADS
from benchmarks.timing import Comparison, Ratio
from tests.cli import ROOT

pytestmark = pytest.mark.timeout(60)

EXPECTED = {
    "startup": {"minimal Lightning script", "train.py --fast_dev_run"},
    "loader": {"DataLoader defaults", "this project"},
    "telemetry": {"both on", "no ShapeLogger", "no Coverage"},
    "scaling": {
        "this project, 10",
        "DataLoader defaults, 10",
        "order, 1,000",
    },
}
FLAGS = {"scaling": ["--lengths=10", "--order_lengths=1000", "--rounds=1"]}


def rows_of(out: Path, name: str) -> list[dict[str, str]]:
    """The CSV's rows; each has a positive figure (an added memory may be none)."""
    with (out / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["group", "variant", "unit", "round", "value"]
    for row in rows:
        assert float(row["value"]) > 0 or (row["unit"] == "MiB more at peak"), row
    return rows


def run_command(name: str, *flags: str, out: Path) -> str:
    """Run `python -m benchmarks.<name>` as a user does, and give back what it printed."""
    module: Any = importlib.import_module(f"benchmarks.{name}")
    code = f"from {module.__name__} import main; main({[*flags, f'--out={out}']!r})"
    done = timing.subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXPECTED)
def test_a_command_prints_its_table_and_writes_its_figures(name: str, tmp_path: Path) -> None:
    stdout = run_command(name, *FLAGS.get(name, ["--quick"]), out=tmp_path)
    assert f"{os.cpu_count()} cores" in stdout
    assert {row["variant"] for row in rows_of(tmp_path, name)} == EXPECTED[name]
    for variant in EXPECTED[name]:
        assert f"\n  {variant} " in stdout
