"""What a run prints goes out as well as the console can show it."""

import io
import sys

import pytest

from lightning_app.processes.streams import streams_that_may_close


@pytest.mark.parametrize(("encoding", "errors"), [("latin-1", "strict"), ("ascii", "replace")])
def test_a_console_without_a_character(
    encoding: str, errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding, errors)
    monkeypatch.setattr(sys, "stdout", console)
    with streams_that_may_close():
        print("… and 3 more")
    written = console.buffer.getvalue()
    assert written == (b"? and 3 more\n" if errors == "replace" else b"\\u2026 and 3 more\n")
