"""The commands of README and docs, run in the order in which they stand, print what is shown.

In a fenced block without a language each line is a command. A `text` block after it is the output
of the last one: line by line, where a line that is `…` stands for any number of lines, and one that
has it for anything in its place. Python and YAML blocks are files, if they are named just before or
in their first line. What is shown of a run that is refused, begins with `train.py: error:`.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import nn

from tests.command import ROOT
from tests.live_program import STDERR, STDOUT, Program
from tests.train_to_end import train

BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
WAITS = re.compile(r"^train\.py: .*(waits|waiting) for")  # on a busy machine
FILE_NAME = re.compile(r"`(\w+\.py)` in the\s+working|^# (\w+\.yaml)$", re.MULTILINE)


def blocks(document: str, wanted: str) -> list[str]:
    """A document's fenced blocks of a language."""
    found = BLOCK.findall((ROOT / document).read_text())
    return [dedent(text) for _, language, text in found if language == wanted]


def commands(document: str) -> list[tuple[list[str], str | None]]:
    """What a document has one run, with the output that it shows."""
    found: list[tuple[list[str], str | None]] = []
    for _, language, indented in BLOCK.findall((ROOT / document).read_text()):
        text = dedent(indented)
        if language == "":
            found += [(shlex.split(line, comments=True), None) for line in text.splitlines()]
        elif language == "text" and found and found[-1][1] is None:
            found[-1] = (found[-1][0], text)
    return found


def files(document: str) -> dict[str, str]:
    """The files that a document has one write."""
    text, found = (ROOT / document).read_text(), {}
    for block in BLOCK.finditer(text):
        names = FILE_NAME.findall(text[: block.start()].rpartition("```")[2] + block[3])
        if block[2] in ("python", "yaml") and names:
            found["".join(names[-1])] = block[3]
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


DOCUMENTS = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "command_line",
            "extending",
            "library",
            "resume",
            "strategies",
        )
    ),
)


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="the outputs are of the CPU")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_shows_is_printed(document: str, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, text in (files("README.md") | files(document)).items():
        (tmp_path / name).write_text(text)
    ran = 0
    for words, shown in commands(document):
        line = " ".join(words)
        if line.startswith(tuple(NOT_RUN)):
            continue
        status, printed = run(words, tmp_path)
        assert status == (2 if "\ntrain.py: error: " in f"\n{shown}" else 0), (line, printed)
        assert shown is None or same(shown, printed), f"{line}\n{printed}"
        ran += 1
    assert ran


def run(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a document's command; its exit status, and what it prints, errors first."""
    assert words[0] == "python", words
    for name in (STDOUT, STDERR):
        (folder / name).unlink(missing_ok=True)
    if words[1] == "train.py":
        program = Program(*words[2:], cwd=folder)
        status, stdout, stderr = program.end(), (folder / STDOUT).read_text(), program.stderr
    else:  # a script of the user's own
        env = {"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        status, stdout, stderr = ended.returncode, ended.stdout, ended.stderr
    told = [line for line in stderr.splitlines(True) if not WAITS.search(line)]
    return status, "".join(told) + stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_weights_in_same_numbers_are_found(tmp_path: Path) -> None:
    """To what is promised: the last digits may differ by the CPU."""
    page = (ROOT / "docs" / "same_numbers.md").read_text()
    common = re.findall(r"From `python train.py (.*?)`", page)[0].split()
    rows = re.findall(r"^\| `(--devices .*?)` \| (0\.\d+) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for number, (layout, weight) in enumerate(rows):
        flags = (*common, *layout.split(), "--run_name", str(number))
        assert train(*flags, cwd=tmp_path).status == 0
        path = tmp_path / "lightning_logs" / str(number) / "checkpoints" / "last.ckpt"
        found = torch.load(path, weights_only=True)["state_dict"]["net.fc.weight"][0, 2].item()
        assert found == pytest.approx(float(weight), rel=1e-12), layout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commands_of_same_numbers_give_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    weights = []
    for number, (words, _) in enumerate(commands("docs/same_numbers.md")):
        assert run(words, tmp_path)[0] == 0
        path = tmp_path / f"lightning_logs/version_{number}/checkpoints/last.ckpt"
        weights.append(torch.load(path, weights_only=True)["state_dict"]["net.fc.weight"])
    assert torch.equal(*weights)


def test_the_recipes_of_your_code_do_what_they_say() -> None:
    methods: dict[str, Any] = {}
    for block in blocks("docs/your_code.md", "python"):
        exec(block, methods)
    model = nn.Module()
    model.net, model.average = nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False)
    expected = 0.9 * model.average.weight + 0.1 * model.net.weight
    methods["on_train_batch_end"](model, None, None, 0)
    torch.testing.assert_close(model.average.weight, expected)
    batch = torch.zeros(3), torch.tensor([1, -100, 2])
    assert methods["loss_is_mean_over"](model, batch) == 2


def test_the_lines_that_your_code_names_are_in_the_code() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "lightning_app").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # one text in several lines
    page = (ROOT / "docs" / "your_code.md").read_text()
    table = page[page.index("## What is told") : page.index("## Means over")]
    rows = [row for row in table.splitlines() if row.startswith("| ")][2:]
    lines = [line for row in rows for line in re.findall(r"`(.+?)`", row.split("|")[1])]
    assert len(lines) > 15
    for piece in (piece.strip(" ,:") for line in lines for piece in line.split("…")):
        assert piece in code, piece


def test_the_index_names_every_page_and_links_lead_somewhere() -> None:
    index = (ROOT / "README.md").read_text()
    index = index[index.index("## Where things are") :]
    pages = sorted((ROOT / "docs").glob("*.md"))
    assert [path.name for path in pages if f"](docs/{path.name})" not in index] == []
    for page in (*pages, *ROOT.glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_with_commands_is_run() -> None:
    elsewhere = {
        "beyond_one_machine": "tests/launched/test_docs.py",
        "same_numbers": "by tests of this file",
    }
    pages = (ROOT / "docs").glob("*.md")
    found = {page.stem for page in pages if commands(f"docs/{page.name}")}
    assert found == {*elsewhere, *(Path(name).stem for name in DOCUMENTS[1:])}
