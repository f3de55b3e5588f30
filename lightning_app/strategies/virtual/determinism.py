"""Settings of this process under which a kernel adds up in one order; given back after the run."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

NUM_THREADS = 1  # the only number that every machine and every number of processes has
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


class Determinism:
    """Fixes the number of threads and, for GPUs, the kernels that torch chooses."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def begin(self, device: torch.device) -> None:
        """Make the settings for a device; twice does no more than once."""
        if self._undo:
            return
        self._set(torch.get_num_threads, torch.set_num_threads, NUM_THREADS)
        if device.type != "cuda":
            return
        # Read by cuBLAS when it is first used.
        self._set(lambda: os.environ.get(WORKSPACE), _set_workspace, ":4096:8")
        is_strict = torch.are_deterministic_algorithms_enabled()
        only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True)
        self._undo.append(
            lambda: torch.use_deterministic_algorithms(is_strict, warn_only=only_warns)
        )
        precision = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
        self._set(*precision, "highest")  # no TF32
        for name, value in (("allow_tf32", False), ("benchmark", False), ("deterministic", True)):
            self._set_of_cudnn(name, value)

    def _set(self, get: Callable[[], Any], set_: Callable[[Any], Any], value: Any) -> None:
        before = get()
        set_(value)
        self._undo.append(lambda: set_(before))

    def _set_of_cudnn(self, name: str, value: bool) -> None:
        cudnn: Any = torch.backends.cudnn
        self._set(lambda: getattr(cudnn, name), lambda v: setattr(cudnn, name, v), value)

    def end(self) -> None:
        """Give the settings back."""
        while self._undo:
            with suppress(RuntimeError):
                self._undo.pop()()


def _set_workspace(value: str | None) -> None:
    if value is None:
        os.environ.pop(WORKSPACE, None)
    else:
        os.environ[WORKSPACE] = value
