"""The probe as a whole: it gathers what it gets, within its limits, and never raises."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import lightning_app.doctor as devices
from lightning_app.doctor.asking import Asking
from lightning_app.doctor.facts import Adapter, Facts, Process, TorchGpu
from lightning_app.doctor.machine import Answer, Machine, read_file, run_command
from lightning_app.doctor.probes import fresh

from .fakes import FakeNvml, machine, pci

BUILD = {"version": "2.13.0+cu130", "cuda": "13.0", "archs": ["sm_90"], "mps": False}
VIEW = {"device_count": 2, "runtime_count": 2, "is_available": True, "driver_error": 0}


def says(*lines: object) -> str:
    return "\n".join(json.dumps(line) for line in lines)


def torch_answers(command: Sequence[str]) -> Answer:
    """A fresh process on a machine with two GPUs."""
    if command[-1] == "count":
        return Answer(says({"build": BUILD}, {"view": VIEW}), 0)
    gpus = [{"gpu": {"index": i, "allocated": True}} for i in range(2)]
    return Answer(says({"build": BUILD}, {"view": {**VIEW, "device_count": 1}}, *gpus), 0)


def test_gathers_what_each_layer_says() -> None:
    files = {
        **pci("0000:01:00.0", "30000", "10DE:2684", driver="nvidia"),
        "/proc/version": b"Linux version 6.8.0",
        "/proc/1/cgroup": b"0::/init.scope",
        "/proc/driver/nvidia/version": b"NVRM version: NVIDIA Kernel Module  580.95.05  x",
        "/dev/nvidia0": b"",
    }
    environ = {"CUDA_VISIBLE_DEVICES": "0", "HOME": "/home/somebody"}
    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            device_count=lambda: 2, is_initialized=lambda: True, _is_in_bad_fork=lambda: False
        )
    )
    asked = machine("Linux", files, environ, torch_answers, FakeNvml(), torch)
    facts = devices.probe(asked)
    assert facts.unknown == ()
    assert facts.system == "Linux"
    assert (facts.wsl, facts.container, facts.interactive) == (False, False, False)
    assert facts.num_cpus == 4
    assert facts.adapters == (
        Adapter(vendor="nvidia", bus_id="0000:01:00.0", revision=161, driver="nvidia"),
    )
    assert facts.kernel_driver == "580.95.05"
    assert facts.device_nodes == 1
    assert facts.environment == {"CUDA_VISIBLE_DEVICES": "0"}  # and no other variable
    assert facts.build is not None
    assert facts.build.cuda == "13.0"
    assert facts.process == Process(device_count=2, initialized=True, bad_fork=False)
    assert facts.here is not None
    assert facts.here.device_count == 1
    assert facts.here.gpus == (TorchGpu(0, allocated=True), TorchGpu(1, allocated=True))
    assert facts.clean is not None
    assert facts.clean.device_count == 2
    assert facts.clean.gpus is None


def test_uuids_and_serials_only_if_asked_for() -> None:
    asked = machine(nvml=FakeNvml(2), environ={"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-9"})
    open_facts, hidden = devices.probe(asked, uuids=True), devices.probe(asked)
    assert open_facts.nvml is not None
    assert hidden.nvml is not None
    assert [gpu.uuid for gpu in open_facts.nvml.gpus or ()] == ["GPU-0", "GPU-1"]
    assert [gpu.serial for gpu in open_facts.nvml.gpus or ()] == ["serial-0", "serial-1"]
    assert [gpu.uuid for gpu in hidden.nvml.gpus or ()] == ["GPU-hidden-0000", "GPU-hidden-0001"]
    assert [gpu.serial for gpu in hidden.nvml.gpus or ()] == [None, None]
    assert hidden.environment == {"CUDA_VISIBLE_DEVICES": "GPU-hidden-0001,GPU-unlisted-0001"}


@pytest.mark.parametrize("system", ["Linux", "Windows", "Darwin", "BeOS", ""])
def test_a_machine_that_answers_nothing(system: str) -> None:
    facts = devices.probe(machine(system))
    said = "\n".join(facts.unknown)
    assert "NVIDIA driver (NVML): ImportError: No module named 'pynvml'" in said
    assert "PyTorch in a fresh process: FileNotFoundError" in said
    assert "adapters: " in said
    assert (facts.adapters, facts.nvml, facts.build, facts.here) == (None, None, None, None)
    assert devices.diagnose(facts) == []


def test_a_machine_that_answers_with_anything_but_answers() -> None:
    def raises(*_: Any) -> Any:
        raise RuntimeError("boom\nand more")

    asked = Machine("Linux", {}, raises, raises, raises, raises, raises, False, None)
    facts = devices.probe(asked)
    assert len(facts.unknown) == 8
    assert all(line.endswith("RuntimeError: boom") for line in facts.unknown)


def test_layers_that_hang_cost_their_limit_together() -> None:
    def hangs(*_: Any) -> Any:
        time.sleep(8)

    environ = {"CUDA_VISIBLE_DEVICES": "0"}
    asks = Machine("Linux", environ, hangs, hangs, hangs, hangs, hangs, False, None)
    asked = replace(asks, files_s=0.2, command_s=0.2, fresh_s=0.2)
    start = time.monotonic()
    facts = devices.probe(asked)
    assert time.monotonic() - start < 5
    assert len(facts.unknown) == 9
    assert all("no answer in " in line for line in facts.unknown)


def test_wsl_asks_the_windows_below() -> None:
    def run(command: Sequence[str]) -> Answer:
        if command[0] != "powershell.exe":
            return torch_answers(command)
        return Answer('{"Name":"RTX","PNPDeviceID":"PCI\\\\VEN_10DE&DEV_1"}', 0)

    wsl = {"/proc/version": b"Linux version 5.15 microsoft-standard-WSL2", "/dev/dxg": b""}
    facts = devices.probe(machine("Linux", wsl, run=run))
    assert facts.wsl is True
    assert facts.adapters == (Adapter(vendor="nvidia", name="RTX"),)


def test_one_fresh_process_where_no_variable_chooses() -> None:
    asked: list[str] = []

    def run(command: Sequence[str]) -> Answer:
        asked.append(command[-1])
        return torch_answers(command)

    facts = devices.probe(machine(run=run, environ={"CUDA_HOME": "/opt/cuda"}))
    assert asked == ["try"]
    assert facts.clean == facts.here


def test_the_clean_process_keeps_all_but_the_choice() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_PATH": "C:\\CUDA", "PATH": "x"}
    assert fresh.without_choice(environ) == {"CUDA_PATH": "C:\\CUDA", "PATH": "x"}


def ask_fresh(answer: Answer, mode: str = "try") -> Any:
    return fresh.ask_fresh(machine(run=lambda _: answer), {}, mode, 1.0)


def test_a_fresh_process_that_hangs_on_its_second_gpu() -> None:
    stdout = says({"build": BUILD}, {"view": VIEW}, {"gpu": {"index": 0, "allocated": True}})
    build, view = ask_fresh(Answer(stdout, None))
    assert build is not None
    assert view.gpus == (
        TorchGpu(0, allocated=True),
        TorchGpu(1, allocated=False, error="no answer: it hung or crashed"),
    )


def test_a_fresh_process_that_ends_before_its_count() -> None:
    build, view = ask_fresh(Answer(says({"build": BUILD}), -11))
    assert build is not None
    assert view is None


def test_lines_of_others_are_passed_over() -> None:
    stdout = "a library says hello\n[1]\n" + says({"build": BUILD}, {"view": VIEW})
    assert ask_fresh(Answer(stdout, 0), "count")[1].device_count == 2


def test_a_fresh_process_without_an_answer() -> None:
    with pytest.raises(TimeoutError, match="no answer in 1 s"):
        ask_fresh(Answer("", None))
    with pytest.raises(ValueError, match="it ended with 1 and no answer"):
        ask_fresh(Answer("\n", 1))
    with pytest.raises(ValueError, match="view: no field 'size'"):
        ask_fresh(Answer(says({"view": {"size": 1}}), 0))


def test_an_answer_in_time_and_none() -> None:
    unknown: list[str] = []
    assert Asking("one", lambda: 1, 5).answer(unknown) == 1
    assert Asking("two", lambda: time.sleep(1), 0.01).answer(unknown) is None
    assert Asking("three", lambda: 1 // 0, 5).answer(unknown) is None
    assert unknown == [
        "two: no answer in 0.01 s",
        "three: ZeroDivisionError: integer division or modulo by zero",
    ]


def test_a_command_is_ended_at_its_limit_and_keeps_what_it_said() -> None:
    script = "import time; print('first', flush=True); time.sleep(30)"
    start = time.monotonic()
    answer = run_command((sys.executable, "-c", script), {}, 1.0)
    assert time.monotonic() - start < 10
    assert answer.stdout.strip() == "first"
    assert answer.returncode is None


def test_a_command_gets_only_the_environment_given() -> None:
    script = "import os; print(os.environ.get('A'), 'HOME' in os.environ); raise SystemExit(3)"
    answer = run_command((sys.executable, "-c", script), {"A": "1"}, 30)
    assert answer == Answer(answer.stdout, 3)
    assert answer.stdout.strip() == "1 False"


def test_files_are_read_up_to_a_limit(tmp_path: Any) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * 100_000)
    assert len(read_file(str(path))) == 65536
    with pytest.raises(FileNotFoundError):
        read_file(str(tmp_path / "none"))


def test_check_finds_in_the_running_process(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = Facts(process=Process(bad_fork=True))
    monkeypatch.setattr(devices, "probe", lambda: facts)
    assert [finding.cause for finding in devices.check()] == ["cuda-before-fork"]


def test_importing_asks_nothing_and_loads_no_pytorch() -> None:
    script = (
        "import sys; import lightning_app.doctor; "
        "print([m for m in ('torch', 'lightning', 'pynvml', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
