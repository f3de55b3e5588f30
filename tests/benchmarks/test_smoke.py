"""Every benchmark runs, on tiny sizes, and tells what it should; no time is judged."""

import csv
import importlib
import os
from functools import partial
from pathlib import Path

import pytest
import yaml

from benchmarks import order, step_cost, timing
from benchmarks.step_variants import WORKLOADS
from benchmarks.timing import Comparison, Ratio

pytestmark = pytest.mark.timeout(120)

VARIANTS = {
    "startup": {"minimal Lightning script", "train.py --fast_dev_run"},
    "users_file": {"plain Trainer", "train.py", "train.py, K = 50"},
    "memory": {"plain Trainer", "train.py"},
    "loader": {
        *("DataLoader defaults", "this project"),
        *("the user's DataLoader", "as handed to a rank"),
    },
    "telemetry": {"both on", "both off", "no ShapeLogger", "no Coverage"},
    "virtual_ranks": {"plain", "1 virtual", "8 virtual"},
    "scaling": {"this project, 1,000", "DataLoader defaults, 1,000", "order, 1,000,000,000"},
    "step_cost": {
        "a plain loop",
        "a' whole batches",
        "a'' slices",
        "b usual Lightning",
        "d train.py",
        "d' train.py, bar on",
        "e train.py, K = 50",
        "e' data on device",
    },
}
FLAGS = {
    "step_cost": ["--processes=1"],
    "users_file": ["--processes=1"],
    "virtual_ranks": ["--processes=1"],
}


SLOW = ("memory", "step_cost", "users_file")  # many processes each


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in VARIANTS]
)
def test_a_command_prints_its_tables_and_writes_its_figures(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_cost, "why_not_accelerate", lambda *where: "it takes long to import")
    command = importlib.import_module(f"benchmarks.{name}")
    command.main(["--quick", f"--out={tmp_path}", *FLAGS.get(name, [])])

    stdout = capsys.readouterr().out
    assert f"{os.cpu_count()} cores" in stdout
    for variant in VARIANTS[name]:
        assert f"\n  {variant} " in stdout
    with (tmp_path / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["group", "variant", "unit", "round", "value"]
    assert {row["variant"] for row in rows} == VARIANTS[name]
    assert all(float(row["value"]) > 0 for row in rows if row["unit"] != "MiB more at peak")


def test_the_plain_loop_runs_in_two_processes() -> None:
    assert step_cost.us_per_step(*step_cost.peer("plain", "tutorial", 5, 2, "cpu")) > 0


def test_the_order_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    order.main(["--lengths=1000", "--batch_sizes=30", "--num_samples=1000", "--repeats=1"])
    stdout = capsys.readouterr().out
    assert "1,000     30" in stdout
    assert "1,000 first batch:" in stdout


def test_the_wide_workload_is_that_of_its_config() -> None:
    config = yaml.safe_load((timing.ROOT / "configs" / "wide.yaml").read_text())
    wide, data, model = WORKLOADS["wide"], config["data"], config["model"]["init_args"]
    sizes = (wide.input_size, wide.output_size, wide.batch_size)
    keys = ("input_size", "output_size", "batch_size")
    assert sizes == tuple(data["init_args"][key] for key in keys)
    assert (wide.optimizer, wide.lr) == (model["optimizer"], model["lr"])


def test_variants_take_turns_in_alternating_order() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return 1.0

    variants = {name: partial(measure, name) for name in "abc"}
    timing.compare("turns", "s", variants, rounds=2)
    assert calls == ["a", "b", "c", "c", "b", "a"]


def test_ratios_are_taken_within_a_round() -> None:
    values = {"a": [1.0, 20.0, 3.0], "b": [2.0, 10.0, 3.0]}
    ratios = [Ratio("a", "b", "<= 1"), Ratio("a", "c")]
    table = Comparison("pairs", "s", values, ratios, {"c": "not here"})
    assert table.ratio(ratios[0]) == [0.5, 2.0, 1.0]
    assert table.ratio(ratios[1]) == []
    lines = [" ".join(line.split()) for line in str(table).splitlines()]
    assert lines[1:] == [
        "pairs",
        "s median lowest-highest",
        "a 3.00 1.00-20.00",
        "b 3.00 2.00-10.00",
        "c skipped: not here",
        "a / b 1.000 0.500-2.000 of the lowest: 0.500 bar: <= 1",
    ]


def test_a_failing_program_is_told_with_what_it_said() -> None:
    with pytest.raises(RuntimeError, match=r"failed:\n(.|\n)*ValueError: why"):
        timing.run("-c", "raise ValueError('why')")


def test_a_program_tells_its_figures_and_takes_time() -> None:
    code = f"import os; print({timing.MARK!r} + os.environ['FIGURES'])"
    figures = timing.run("-c", code, FIGURES='{"a": 0.5}')
    assert figures["a"] == 0.5
    assert figures["wall_s"] > 0
