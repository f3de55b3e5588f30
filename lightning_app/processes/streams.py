"""Standard output may close in mid-run, say by `| head -1`, or its disk be full: a run goes on.

So it does where the console has no sign for a character that is printed.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def streams_that_may_close() -> Iterator[None]:
    """Within, what cannot be written to stdout and stderr is left out; no error comes of it."""
    usual = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Enduring(stream, fd) for fd, stream in enumerate(usual, 1))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = usual


class Enduring:
    """A text stream that writes to nowhere once it cannot write to where it did.

    What its encoding has no character for is written as its number, as Python does on stderr.

    Args:
        stream: The usual one; `None` where the process was started without.
        fd: The number of its file.
    """

    def __init__(self, stream: Any, fd: int) -> None:
        if stream is None:
            _lead_nowhere(fd)  # or the next file that is opened would have that number
            stream = open(fd, "w", closefd=False)  # noqa: SIM115 - as long as the process
        self._stream, self._fd = stream, fd

    def write(self, text: str) -> int:
        """Write a text, as far as it can be written."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            encoded = text.encode(error.encoding, "backslashreplace")
            self.write(encoded.decode(error.encoding))
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        _lead_nowhere(self._fd)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _lead_nowhere(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != fd:
        os.dup2(nowhere, fd)
        os.close(nowhere)
    os.set_inheritable(fd, True)
