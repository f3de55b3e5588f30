"""Runs in a fresh process: prints what PyTorch sees there, one JSON object a line.

Run as a script, with ``count`` or ``try`` (one tensor on each GPU). It prints as it goes, so that a
GPU that hangs costs only what comes after it. Imports nothing of the package.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import warnings
from typing import Any


def main(mode: str) -> None:
    """Prints the build, then the counts, then a line for each GPU.

    Args:
        mode: ``count`` or ``try``.
    """
    # Lightning sets it, and then is_available() asks NVML instead of CUDA.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    try:
        import torch
    except Exception as error:  # a broken library raises OSError, a broken build anything
        say(build={"error": one_line(error)})
        return
    say(build=build(torch))
    counts = count(torch)
    say(view=counts)
    if mode == "try":
        for index in range(counts["runtime_count"] or 0):
            say(gpu=try_gpu(torch, index))


def build(torch: Any) -> dict[str, Any]:
    """Returns what PyTorch was built for."""
    # torch.cuda.get_arch_list() needs a GPU in older releases; this does not.
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()
    arm = platform.processor() in ("arm", "arm64") and os.environ.get("DISABLE_MPS", "0") != "1"
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "archs": None if flags is None else flags.split(),
        "mps": bool(torch.backends.mps.is_available()) and arm,
    }


def count(torch: Any) -> dict[str, Any]:
    """Returns PyTorch's counts; the first is taken before CUDA starts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        device_count = torch.cuda.device_count()
        is_available = torch.cuda.is_available()
        runtime_count = getattr(torch._C, "_cuda_getDeviceCount", lambda: None)()
    messages = [one_line(warning.message) for warning in caught]
    return {
        "device_count": device_count,
        "is_available": is_available,
        "runtime_count": runtime_count,
        "driver_error": start_driver(),
        "message": messages[0] if messages else None,
    }


def cuda_driver() -> Any:
    """Returns the driver's library, None if there is none."""
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def start_driver() -> int | None:
    """Returns the result code of CUDA's start, which PyTorch does not always show."""
    driver = cuda_driver()
    return None if driver is None else int(driver.cuInit(0))


def bus_id(index: int) -> str | None:
    """Returns the PCI address of a GPU by CUDA's number."""
    driver, device, text = cuda_driver(), ctypes.c_int(), ctypes.create_string_buffer(32)
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), index):
        return None
    if driver.cuDeviceGetPCIBusId(text, len(text), device):
        return None
    return text.value.decode().lower()


def try_gpu(torch: Any, index: int) -> dict[str, Any]:
    """Puts one tensor on a GPU and computes with it."""
    gpu: dict[str, Any] = {"index": index, "bus_id": bus_id(index)}
    try:
        properties = torch.cuda.get_device_properties(index)
        gpu["name"] = properties.name
        gpu["capability"] = f"{properties.major}.{properties.minor}"
        gpu["allocated"] = (torch.ones(1, device=f"cuda:{index}") + 1).item() == 2
    except Exception as error:  # PyTorch raises RuntimeError, AssertionError and its own
        gpu |= {"allocated": False, "error": one_line(error)}
    return gpu


def one_line(error: object) -> str:
    """Returns the first line of a message, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def say(**line: Any) -> None:
    """Prints one JSON object."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
