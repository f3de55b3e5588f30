"""The Text tab: what run this is, and how its batches were split."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning_app.command import command
from lightning_app.masking import masked_arguments
from lightning_app.telemetry.many_ranks import MAX_EACH, runs_of_ranks, sum_in_words


def run_card(layout: str, devices: Iterable[str], seed: int | None) -> str:
    """A Markdown table with what there is to know of this process's run.

    Args:
        layout: The line that describes the layout.
        devices: Their names, in rank order.
        seed: What `seed_everything` was called with.
    """
    rows: dict[str, str | None] = {
        "layout": layout,
        "devices": _names(list(devices)),
        "seed": None if seed is None else str(seed),
        "command": f"`{command()} {shlex.join(masked_arguments(sys.argv[1:]))}`",
        "git commit": git_commit(),
        "Python": platform.python_version(),
    }
    for package in ("torch", "numpy", "lightning", "lightning-any-devices"):
        rows[package] = _version(package)
    return _table(("", "this run"), [(name, text) for name, text in rows.items() if text])


def _names(devices: list[str]) -> str:
    """Of each rank; of many, how many are alike in a row."""
    if len(devices) <= MAX_EACH:
        return ", ".join(devices)
    return ", ".join(f"{len(ranks)} × {name}" for ranks, name in runs_of_ranks(devices))


def splits_table(splits: Mapping[tuple[int, ...], tuple[int, int, int]]) -> str:
    """A Markdown table of the distinct splits.

    Args:
        splits: For each, sizes in rank order, its first and last step and the number of steps.
    """
    rows = (
        (
            sum_in_words(sizes) if len(sizes) > 1 else "not split",
            str(sum(sizes)),
            f"{first} to {last}",
            str(num_steps),
        )
        for sizes, (first, last, num_steps) in splits.items()
    )
    return _table(("ranks 0, 1, …", "global batch", "steps", "how many"), rows)


def coverage_line(num_epochs: int, num_missing: int, num_repeated: int) -> str:
    """Whether the epochs have visited each sample once, in words."""
    if not num_epochs:
        return "Which samples were visited is not known."
    if not (num_missing or num_repeated):
        return f"Each of {num_epochs} epochs visited every sample of its plan once."
    return f"{num_epochs} epochs missed {num_missing} samples, and visited {num_repeated} again."


def git_commit() -> str | None:
    """The working folder's commit, with a note if it has changes; `None` outside a repository.

    A repository's configuration may name programs that `git status` runs: to watch its files, which
    is switched off, and to filter them: then nothing is said of changes.
    """

    def git(*args: str, is_question: bool = False) -> str:
        call = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *args],
            capture_output=True,
            timeout=5,
            check=not is_question,
            encoding="utf-8",
        )
        return call.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        own_filters = ("config", "--local", "--includes", "--get-regexp", r"^filter\.")
        if git(*own_filters, is_question=True):
            return commit
        changes = git("status", "--porcelain", "-uno", "--ignore-submodules=all")
        return commit + (" with changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The CPU's model, or at least its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # it runs from a checkout
        return None


def _table(header: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)
