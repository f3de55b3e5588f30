"""Runs the command line in this process, where starting Python is paid for once."""

import sys
from pathlib import Path

import pytest

from lightning_app.cli import main
from tests.command import Outcome


class InProcess:
    """Runs `train.py` in a folder, on the CPU.

    Args:
        folder: The working folder.
        patch: Sets it, and the arguments.
        capture: Takes what is printed.
    """

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._patch, self._capture = folder, patch, capture
        patch.chdir(folder)

    def __call__(self, *arguments: str) -> Outcome:
        self._patch.setattr(sys, "argv", ["train.py", *arguments, "--accelerator", "cpu"])
        self._capture.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Outcome(status, *self._capture.readouterr())

    def files(self) -> set[str]:
        """All files and folders below the working folder."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    def refused(self, line: str, *arguments: str) -> None:
        """Assert that a command is refused in one line, and writes nothing."""
        before = self.files()
        outcome = self(*arguments)
        assert outcome.status == 2, outcome
        assert line in outcome.stderr, outcome.stderr
        assert outcome.stderr.startswith("train.py: error: ")
        assert outcome.stderr.count("\n") == 1, outcome.stderr
        assert self.files() == before
