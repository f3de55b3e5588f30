"""The commands of README and docs, run in the order in which they stand, print what is shown.

In a fenced block without a language each line is a command. A `text` block after it is the output
of the last one: line by line, where a line that is `…` stands for any number of lines, and one that
has it for anything in its place. Python and YAML blocks are files, if they are named just before or
in their first line.
"""

import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.command import ROOT
from tests.forked import STDERR, STDOUT, Program

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WAITS = re.compile(r"^train\.py: .*(waits|waiting) for")  # on a busy machine
FILE_NAME = re.compile(r"`(\w+\.py)` in the working|^# (\w+\.yaml)$", re.MULTILINE)


def commands(document: str) -> list[tuple[list[str], str | None]]:
    """What a document has one run, with the output that it shows."""
    found: list[tuple[list[str], str | None]] = []
    for language, text in BLOCK.findall((ROOT / document).read_text()):
        if language == "":
            found += [(shlex.split(line, comments=True), None) for line in text.splitlines()]
        elif language == "text" and found and found[-1][1] is None:
            found[-1] = (found[-1][0], text)
    return found


def files(document: str) -> dict[str, str]:
    """The files that a document has one write."""
    text, found = (ROOT / document).read_text(), {}
    for block in BLOCK.finditer(text):
        names = FILE_NAME.findall(text[: block.start()].rpartition("```")[2] + block[2])
        if block[1] in ("python", "yaml") and names:
            found["".join(names[-1])] = block[2]
    return found


def same(shown: str, printed: str) -> bool:
    """Whether an output is what a document shows of it."""
    lines = []
    for line in shown.splitlines():
        found = ".*".join(map(re.escape, line.split("…")))
        lines.append("(.*\n)*" if line == "…" else f"{found}\n")
    return re.fullmatch("".join(lines), printed) is not None


NOT_RUN = {
    "python -m venv": "the tests' own environment is one",
    "source": "the same",
    "pip install": "`.ci/run` does it by these words",
    "tensorboard": "it serves until it is stopped; tests/telemetry/dashboard opens its page",
    "train-any": "installed by the wheel: tests/test_installed.py",
}


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="the outputs are of the CPU")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", ["README.md", "docs/command_line.md", "docs/strategies.md"])
def test_what_a_document_shows_is_printed(document: str, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, text in files(document).items():
        (tmp_path / name).write_text(text)
    ran = 0
    for words, shown in commands(document):
        line = " ".join(words)
        if line.startswith(tuple(NOT_RUN)):
            continue
        assert words[:2] == ["python", "train.py"], line
        for name in (STDOUT, STDERR):
            (tmp_path / name).unlink(missing_ok=True)
        program = Program(*words[2:], cwd=tmp_path)
        assert program.end() == 0, (line, program.stderr)
        told = [line for line in program.stderr.splitlines(True) if not WAITS.search(line)]
        printed = "".join(told) + (tmp_path / STDOUT).read_text()
        assert shown is None or same(shown, printed), f"{line}\n{printed}"
        ran += 1
    assert ran
