"""The page on the doctor says what the doctor does."""

from __future__ import annotations

import io
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from lightning_app.doctor import __main__ as doctor
from lightning_app.doctor.diagnose import CAUSES, diagnose
from lightning_app.doctor.facts import SCHEMA, Facts
from lightning_app.doctor.report import as_json, render

from .recorded import machine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def rendered(facts: Facts) -> str:
    file = io.StringIO()
    render(facts, diagnose(facts), Console(file=file, width=80))
    return file.getvalue()


def test_lists_every_cause_once() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(CAUSES)


def test_shows_the_report_of_the_recorded_machine() -> None:
    report = rendered(machine("adapter-without-cuda"))
    assert report in blocks("text")
    assert f"```text\n{report}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_shows_the_report_of_a_machine_without_gpu_as_it_was_printed() -> None:
    """The words, that is: the version of PyTorch and the number of CPUs are of their day."""
    expected = rendered(machine("healthy-no-gpu")).split("\n", 1)[1]
    assert expected in blocks("text")


def test_the_commands_and_the_script_of_the_page_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = diagnose(machine("adapter-without-cuda"))
    monkeypatch.setattr("lightning_app.doctor.check", lambda: findings)
    exec(blocks("python")[0], {})
    assert capsys.readouterr().out.startswith("adapter-without-cuda The operating system counts")
    monkeypatch.setattr(doctor, "probe", lambda uuids: machine("adapter-without-cuda"))
    facts = Path(__file__).parent / "machines" / "healthy-no-gpu.json"
    for line in blocks("sh")[0].splitlines():
        words = shlex.split(line.replace("FILE", str(facts)), comments=True)
        assert words[:3] == ["python", "-m", "lightning_app.doctor"]
        assert doctor.main(words[3:]) == 0


def test_documents_the_json() -> None:
    documented = json.loads(blocks("json")[0])
    facts = machine("visible-devices-empty")
    report = as_json(facts, diagnose(facts))
    assert list(documented) == list(report)
    assert documented["schema"] == SCHEMA
    assert documented["findings"] == json.loads(json.dumps(report["findings"]))
    assert set(documented["facts"]) == {field.name for field in fields(Facts)}
