"""A rank ends with the process that has started it."""

import ctypes
import os
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_app.processes import ranks


class Ended(Exception):
    """In place of the process's end."""


def test_on_windows_a_rank_waits_for_the_first_process_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []

    def end(status: int) -> None:
        raise Ended(status)

    def open_process(*args: Any) -> int:
        calls.append(args)
        return 1 << 40

    kernel = SimpleNamespace(
        OpenProcess=open_process,
        WaitForSingleObject=lambda handle, limit: calls.append((handle.value, limit)),
    )
    monkeypatch.setattr(ranks, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(ctypes, "WinDLL", {"kernel32": kernel}.get, raising=False)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended, match=r"^1$"):
        ranks._end_after(os.getppid() + 1)  # which a virtual environment's `python.exe` is not
    assert calls == [(0x00100000, False, os.getppid() + 1), (1 << 40, 0xFFFFFFFF)]
