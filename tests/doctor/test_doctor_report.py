"""The report as it is read: 80 columns, with and without colour, and as JSON."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from lightning_app.doctor.diagnose import diagnose
from lightning_app.doctor.facts import Facts, Process
from lightning_app.doctor.report import as_json, render
from lightning_app.doctor.rows import not_learnt, rows

from .recorded import NAMES, machine


def text(facts: Facts, width: int = 80, colour: bool = False) -> str:
    """The report as printed."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colour, no_color=not colour)
    render(facts, diagnose(facts), console)
    return file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_fits_into_80_columns_of_plain_ascii(name: str) -> None:
    report = text(machine(name))
    assert max(len(line) for line in report.splitlines()) <= 80
    assert report.isascii()


@pytest.mark.parametrize("name", NAMES)
def test_colour_changes_no_word(name: str) -> None:
    coloured = text(machine(name), colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text(machine(name))


@pytest.mark.parametrize("name", NAMES)
def test_says_everything_there_is_to_say(name: str) -> None:
    """At a width at which nothing is wrapped."""
    facts = machine(name)
    report = text(facts, width=1000)
    for number, finding in enumerate(diagnose(facts), 1):
        assert f"{number}. {finding.cause} ({finding.severity})" in report
        for piece in (finding.explanation, *finding.evidence, f"Remedy: {finding.remedy}"):
            assert piece in report
        assert (finding.command or "") in report
    assert f"From recorded facts: {facts.source}" in report
    for layer in ("Display adapters", "NVIDIA driver", "PyTorch counts", "Lightning picks"):
        assert layer in report


@pytest.mark.parametrize("name", NAMES)
def test_addresses_and_commands_are_never_broken(name: str) -> None:
    facts = machine(name)
    report = text(facts)
    for finding in diagnose(facts):
        assert finding.command is None or f"       {finding.command}\n" in report
        for address in re.findall(r"https://[^ ;)]+", finding.remedy):
            assert address in report


def test_a_name_that_is_markup_is_printed_as_it_is() -> None:
    facts = machine("adapter-without-cuda")
    assert facts.adapters is not None
    odd = replace(facts.adapters[0], name="[red]Intel[/red] :smile:")
    assert "[red]Intel[/red] :smile:" in text(replace(facts, adapters=(odd,)))


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("healthy-1-gpu", "All GPUs can be used."),
        ("healthy-mac", "All GPUs can be used."),
        ("healthy-no-gpu", "Nothing is hidden: no GPU was found on this machine."),
    ],
)
def test_a_healthy_machine_is_told_so(name: str, verdict: str) -> None:
    assert verdict in text(machine(name))


def test_knowing_nothing_is_told_too() -> None:
    report = text(Facts(unknown=("adapters: PermissionError",)))
    assert "Nothing found; PyTorch could not be asked." in report
    assert "Could not be learnt\n   - adapters: PermissionError" in report


def test_what_could_not_be_learnt() -> None:
    assert not_learnt(machine("healthy-no-gpu")) == [
        "GPUs as the NVIDIA driver lists them: NVML_ERROR_LIBRARY_NOT_FOUND",
        "GPUs of the host: this container's /sys shows none",
    ]
    silent = replace(machine("healthy-1-gpu"), here=None)
    assert not_learnt(silent) == [
        "PyTorch's count: the fresh process hung or crashed while counting"
    ]
    assert not_learnt(machine("healthy-1-gpu")) == []
    outside = replace(machine("healthy-no-gpu"), container=False)
    assert not_learnt(outside) == not_learnt(machine("healthy-no-gpu"))[:1]


def test_rows_show_each_layer() -> None:
    facts = replace(machine("visible-devices-out-of-range"), process=Process(1, True, True))
    shown = dict(rows(facts))
    assert shown["Environment"] == ["CUDA_VISIBLE_DEVICES=0,5,1"]
    assert shown["This process"] == ["counts 1, CUDA has started", "forked after CUDA had started"]
    assert shown["PyTorch counts"] == [
        "as set: 1, CUDA itself 1, available",
        "without the variables: 2, CUDA itself 2, available",
    ]
    assert shown["One tensor each"] == ["0: NVIDIA GeForce RTX 4090 (0000:01:00.0): ok"]
    assert shown["Display adapters"][0] == "0: NVIDIA (0000:01:00.0, driver nvidia)"


def test_rows_show_marks_of_trouble() -> None:
    assert dict(rows(machine("gpu-lost")))["Display adapters"][1].endswith("revision ff)")
    assert (
        dict(rows(machine("gpu-lost")))["NVIDIA driver"][2] == "1: a GPU (NVML_ERROR_GPU_IS_LOST)"
    )
    windows = dict(rows(machine("gpu-lost-windows")))["Display adapters"]
    assert windows[1] == "1: NVIDIA GeForce RTX 3080 (problem code 43)"
    assert "MIG, instances: 3" in dict(rows(machine("mig")))["NVIDIA driver"][1]
    assert "exclusive-process" in dict(rows(machine("exclusive-mode")))["NVIDIA driver"][1]
    assert "CUDA error 802" in dict(rows(machine("fabric-manager-missing")))["PyTorch counts"][0]
    assert dict(rows(Facts()))["PyTorch counts"] == ["unknown"]


@pytest.mark.parametrize("name", NAMES)
def test_json_has_its_documented_form(name: str) -> None:
    facts = machine(name)
    findings = diagnose(facts)
    report = json.loads(json.dumps(as_json(facts, findings)))
    assert list(report) == [
        "schema",
        "exit_code",
        "findings",
        "lightning_picks",
        "train",
        "facts",
    ]
    assert report["schema"] == 1
    assert report["exit_code"] == int(any(f.severity == "problem" for f in findings))
    for found in report["findings"]:
        assert list(found) == [
            "cause",
            "explanation",
            "evidence",
            "remedy",
            "command",
            "severity",
        ]
    assert list(report["lightning_picks"]) == ["accelerator", "num_devices"]
    assert list(report["train"]) == ["command", "reason"]
    assert Facts.from_json(report["facts"]) == facts
