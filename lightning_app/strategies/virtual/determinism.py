"""Settings of this process under which a kernel adds up in one order; given back after the run."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch

NUM_THREADS = 1  # the only number that every machine and every number of processes has
WORKSPACE, FIXED = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


Setting = tuple[Callable[[], Any], Callable[[Any], Any]]  # how it is read, and how it is made


def fix_workspace() -> None:
    """Fix cuBLAS's workspace: before any code of the user's, as torch looks at it only once."""
    os.environ.setdefault(WORKSPACE, FIXED)


@contextmanager
def fixed_kernels(device: torch.device) -> Iterator[None]:
    """Fix the number of threads and, for GPUs, the kernels that torch chooses; compile nothing."""
    with ExitStack() as undo:
        for (get, put), value in _settings(device):
            undo.callback(_give_back, put, get())
            put(value)
        # What torch.compile makes depends on the shapes that a process has seen before.
        undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _settings(device: torch.device) -> Iterator[tuple[Setting, Any]]:
    yield (torch.get_num_threads, torch.set_num_threads), NUM_THREADS
    if device.type != "cuda":
        return
    # Read by cuBLAS when it is first used.
    yield (partial(os.environ.get, WORKSPACE), _set_workspace), FIXED
    yield (_strictness, _set_strictness), (True, False)
    # No TF32.
    yield (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision), "highest"
    cudnn: Any = torch.backends.cudnn
    for name, value in (("allow_tf32", False), ("benchmark", False), ("deterministic", True)):
        yield (partial(getattr, cudnn, name), partial(setattr, cudnn, name)), value


def _give_back(put: Callable[[Any], Any], value: Any) -> None:
    with suppress(RuntimeError):
        put(value)


def _strictness() -> tuple[bool, bool]:
    are_on = torch.are_deterministic_algorithms_enabled()
    return are_on, torch.is_deterministic_algorithms_warn_only_enabled()


def _set_strictness(kind: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(kind[0], warn_only=kind[1])


def _set_workspace(value: str | None) -> None:
    if value is None:
        os.environ.pop(WORKSPACE, None)
    else:
        os.environ[WORKSPACE] = value
