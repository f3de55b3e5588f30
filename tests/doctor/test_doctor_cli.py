"""The command itself: once for real on this machine, and on files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_app.doctor import __main__ as doctor
from lightning_app.doctor.facts import Facts

from .recorded import FOLDER

Done = subprocess.CompletedProcess[str]


def run(*arguments: str, **variables: str) -> Done:
    return subprocess.run(
        (sys.executable, "-m", "lightning_app.doctor", *arguments),
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "COLUMNS": "80", **variables},
    )


@pytest.fixture(scope="module")
def for_real() -> Done:
    """This machine's report as JSON."""
    return run("--json")


def test_on_this_machine(for_real: Done) -> None:
    report = json.loads(for_real.stdout)
    assert for_real.returncode == report["exit_code"]
    assert for_real.stderr == ""
    facts = Facts.from_json(report["facts"])
    assert facts.build is not None
    assert facts.build.error is None
    assert facts.here is not None
    assert facts.here.device_count is not None
    assert facts.process is None  # the doctor itself loads no PyTorch


def test_its_own_report_can_be_read_again(for_real: Done, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(for_real.stdout, encoding="utf-8")
    assert doctor.main(["--facts", str(path)]) == for_real.returncode


def test_hidden_by_a_variable_for_real() -> None:
    """Two fresh processes, with and without it; where there is no GPU nothing is hidden."""
    done = run("--json", CUDA_VISIBLE_DEVICES="")
    report = json.loads(done.stdout)
    facts = Facts.from_json(report["facts"])
    assert facts.environment is not None
    assert facts.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert facts.here is not None
    assert facts.here.device_count == 0
    assert facts.clean is not None
    hidden = bool(facts.clean.device_count)
    assert ("visible-devices-empty" in [f["cause"] for f in report["findings"]]) == hidden


def test_recorded_facts_in_a_pipe() -> None:
    done = run("--facts", str(FOLDER / "visible-devices-empty.json"), NO_COLOR="1")
    assert done.returncode == 1
    assert "1. visible-devices-empty (problem)" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_a_terminal_that_knows_little(tmp_path: Path) -> None:
    """An encoding without the characters of a name costs these, not the report."""
    facts = json.loads((FOLDER / "adapter-without-cuda.json").read_text(encoding="utf-8"))
    facts["adapters"][0]["name"] = "Intel \u30b0\u30e9"
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(facts), encoding="utf-8")
    done = run("--facts", str(path), PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "0: Intel ??" in done.stdout


def test_uuids_of_a_file_are_shown_only_if_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "facts.json"
    gpu = {"index": 0, "uuid": "GPU-aa11", "serial": "S-12"}
    path.write_text(json.dumps({"nvml": {"gpus": [gpu]}}), encoding="utf-8")
    for arguments, shown in ((["--uuids"], True), (["--uuids", "--json"], True), ([], False)):
        doctor.main(["--facts", str(path), *arguments])
        report = capsys.readouterr().out
        assert ("GPU-aa11" in report) == shown
        assert ("S-12" in report) == shown


@pytest.fixture
def stderr_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a wrong call prints on stderr, with nothing on stdout and code 2."""

    def call(*arguments: str) -> str:
        try:
            code: object = doctor.main(arguments)
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        assert code == 2
        assert printed.out == ""
        assert printed.err.endswith("\n")
        return printed.err[:-1]

    return call


def test_a_bad_file_is_one_line(stderr_of: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    said = "doctor: --facts " + str(path) + ": "
    assert stderr_of("--facts", str(path)) == said + "No such file or directory"
    path.write_text("{", encoding="utf-8")
    assert stderr_of("--facts", str(path)).startswith(said + "Expecting property name")
    path.write_bytes(b"\xff\xfe\x00")
    assert stderr_of("--facts", str(path)).startswith(said + "'utf-8' codec can't decode")
    path.write_text('{"colour": 1}', encoding="utf-8")
    assert stderr_of("--facts", str(path)) == said + "facts: no field 'colour'"
    path.write_text('{"facts": {"num_cpus": "two"}}', encoding="utf-8")
    assert stderr_of("--facts", str(path)) == said + "facts.num_cpus: expected int, got 'two'"
    path.write_text("[" * 100_000, encoding="utf-8")
    assert stderr_of("--facts", str(path)).startswith(said)


def test_a_wrong_flag_is_one_line(stderr_of: Callable[..., str]) -> None:
    said = stderr_of("--colour")
    assert said == "doctor: unrecognized arguments: --colour (see --help)"
    assert "expected one argument" in stderr_of("--facts")
    assert "unrecognized arguments" in stderr_of("--js")


NO_FACTS = [
    *("", " ", "{", "nul", "{]", "[1,]", "{'a': 1}", "{} {}", "\x00", '{"system": "\x00"}'),
    *("5", "-1", "1.5", "true", '"x"', "[]", "[1]", "NaN", "1e400", '{"facts": 5}'),
    *('{"facts": []}', '{"facts": {"facts": {}}}', '{"system": 5}', '{"system": []}'),
    *('{"num_cpus": 1.5}', '{"num_cpus": "4"}', '{"num_cpus": NaN}', '{"interactive": 2}'),
    *('{"adapters": "x"}', '{"adapters": [5]}', '{"adapters": {}}', '{"adapters": [{"x": 1}]}'),
    *('{"environment": []}', '{"environment": {"A": 5}}', '{"environment": "A=5"}'),
    *('{"nvml": 5}', '{"nvml": {"gpus": 5}}', '{"nvml": {"gpus": [5]}}', '{"nvml": {"x": 1}}'),
    *('{"build": "x"}', '{"here": 5}', '{"clean": [1]}', '{"process": true}'),
    *('{"launch": {"num_hosts": "x"}}', '{"launch": []}', '{"unknown": "x"}', '{"unknown": [5]}'),
    *('{"device_nodes": "x"}', '{"kernel_driver": 5}', '{"container": []}', '{"wsl": {}}'),
    *("[" * 100_000, '{"a":' * 100_000, "\ufeff{}", " " * 10_000_001),
]


@pytest.mark.parametrize("text", NO_FACTS, ids=lambda text: text[:30])
def test_what_holds_no_facts_is_one_line(
    text: str, stderr_of: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "facts.json"
    path.write_text(text, encoding="utf-8")
    said = stderr_of("--facts", str(path))
    assert said.startswith(f"doctor: --facts {path}: ")
    assert "\n" not in said


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/", ".", "/proc/self/mem", "n" * 300])
@pytest.mark.skipif(sys.platform != "linux", reason="other files are odd elsewhere")
def test_what_is_no_file_of_facts_is_one_line(path: str, stderr_of: Callable[..., str]) -> None:
    assert "\n" not in stderr_of("--facts", path)
