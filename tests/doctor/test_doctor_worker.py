"""The script of the fresh process, with a PyTorch made of objects."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_app.doctor.probes import torch_worker


class FakeTensor:
    """One that can be computed with."""

    def __add__(self, other: int) -> FakeTensor:
        return self

    def item(self) -> float:
        return 2.0


def fake_torch(count: int = 1, ones: Callable[..., Any] = lambda *a, **k: FakeTensor()) -> Any:
    """A CUDA build that counts so many GPUs, and warns once."""

    def is_available() -> bool:
        warnings.warn("CUDA initialization: Error 802: not ready\nsecond line", stacklevel=1)
        return count > 0

    properties = SimpleNamespace(name="Card", major=8, minor=9)
    return SimpleNamespace(
        __version__="2.13.0+cu130",
        version=SimpleNamespace(cuda="13.0", hip=None),
        cuda=SimpleNamespace(
            device_count=lambda: count,
            is_available=is_available,
            get_device_properties=lambda index: properties,
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
        ones=ones,
        _C=SimpleNamespace(
            _cuda_getArchFlags=lambda: "sm_80 sm_90", _cuda_getDeviceCount=lambda: count
        ),
    )


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], torch: Any, mode: str
) -> list[dict[str, Any]]:
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(torch_worker, "cuda_driver", lambda: None)
    torch_worker.main(mode)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_says_build_counts_and_gpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    build, view, gpu = run_main(monkeypatch, capsys, fake_torch(), "try")
    assert build["build"] == {
        "version": "2.13.0+cu130",
        "cuda": "13.0",
        "hip": None,
        "archs": ["sm_80", "sm_90"],
        "mps": False,
    }
    assert view["view"] == {
        "device_count": 1,
        "is_available": True,
        "runtime_count": 1,
        "driver_error": None,
        "message": "CUDA initialization: Error 802: not ready",
    }
    assert gpu["gpu"] == {
        "index": 0,
        "bus_id": None,
        "name": "Card",
        "capability": "8.9",
        "allocated": True,
    }
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ


def test_counting_touches_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(run_main(monkeypatch, capsys, fake_torch(4), "count")) == 2
    assert len(run_main(monkeypatch, capsys, fake_torch(4), "try")) == 6


def test_a_gpu_that_fails_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ones(*_: Any, device: str) -> FakeTensor:
        if device == "cuda:0":
            raise RuntimeError("CUDA error: device busy\nCUDA kernel errors might be ...")
        return FakeTensor()

    said = run_main(monkeypatch, capsys, fake_torch(2, ones), "try")
    first, second = said[2]["gpu"], said[3]["gpu"]
    assert (first["allocated"], first["error"]) == (False, "CUDA error: device busy")
    assert (second["allocated"], "error" in second) == (True, False)


def test_a_pytorch_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_main(monkeypatch, capsys, None, "try")
    assert said == [{"build": {"error": "import of torch halted; None in sys.modules"}}]


class FakeDriver:
    """libcuda: a code for its start, an address for its one GPU."""

    def __init__(self, code: int = 0) -> None:
        self.code = code

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGet(self, device: Any, index: int) -> int:
        return 0 if index == 0 else 101

    def cuDeviceGetPCIBusId(self, text: Any, size: int, device: Any) -> int:
        text.value = b"0000:0A:00.0"
        return self.code


def test_the_driver_gives_code_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_worker, "cuda_driver", lambda: FakeDriver())
    assert torch_worker.start_driver() == 0
    assert torch_worker.bus_id(0) == "0000:0a:00.0"
    assert torch_worker.bus_id(1) is None
    monkeypatch.setattr(torch_worker, "cuda_driver", lambda: FakeDriver(999))
    assert torch_worker.start_driver() == 999
    assert torch_worker.bus_id(0) is None


def test_no_driver_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert torch_worker.cuda_driver() is None
    assert torch_worker.start_driver() is None


def test_messages_are_cut_to_one_short_line() -> None:
    assert torch_worker.one_line(ValueError()) == "ValueError"
    assert torch_worker.one_line("x" * 500) == "x" * 300
