"""What is told of flags: the short help, the full one, near misses, a shell's completion."""

import re
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch

from lightning_app.cli import main
from lightning_app.command import command, program
from lightning_app.help import shows_help, without_all
from tests.in_process import InProcess

MEANT = {
    "--batch_size 8": "--batch_size is not a flag: did you mean --data.batch_size?",
    "--lr 0.1": "--lr is not a flag: did you mean --model.lr?",
    "--devces 2": "--devces is not a flag: did you mean --devices?",
    "--epochs 3": "--epochs is not a flag: did you mean --max_epochs?",
    "--trainer.batch_size=3": "--trainer.batch_size is not a flag: did you mean --data.batch_size?",
    "--data.batchsize 3": "--data.batchsize is not a flag: did you mean --data.batch_size?",
    "--model.learning_rate 3": "--model.learning_rate is not a flag: did you mean --model.lr?",
    "--resume_from_checkpoint a": "_from_checkpoint is not a flag: did you mean --ckpt_path?",
    "--model examples.text.LetterModel --hidden 3": "did you mean --model.hidden_size?",
    "--model.hidden_size 3 --model examples.text.LetterModel": "too early: give --model first",
    "train --fast_dev_run": "train is not a flag; a subcommand comes first: fit",
    "--nothing_like_it 3": "unrecognized arguments: --nothing_like_it 3; `python train.py --help",
    "--print_completion fish": "--print_completion fish: it must be one of bash, zsh, tcsh",
}


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("arguments", MEANT)
def test_the_flag_that_is_meant_is_named(arguments: str, train: InProcess) -> None:
    train.refused(MEANT[arguments], *arguments.split())


def test_the_short_help_shows_flags_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["test", "-h"], ["--devices", "2", "--help"]):
        main(arguments)
        short = capsys.readouterr().out
        assert "usage: python train.py [fit | validate | test | predict | plan]" in short
        assert len(short.splitlines()) < 60
        assert max(map(len, short.splitlines())) <= 100
    with pytest.raises(SystemExit) as end:
        main(["--help", "all"])
    assert end.value.code == 0
    full = set(re.findall(r"--[\w.]+", capsys.readouterr().out))
    flags = set(re.findall(r"--\w+(?= |$)", short.partition("examples")[0]))
    assert len(flags) >= 20
    assert flags <= full


def test_the_versions_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["fit", "--version"])
    told = capsys.readouterr().out
    installed = f", torch {torch.__version__}, lightning {lightning.__version__}\n"
    assert re.fullmatch(rf"lightning-any-devices \S+{re.escape(installed)}", told)
    monkeypatch.setattr("lightning_app.help._PACKAGES", ("no-such-package",))
    main(["--version"])
    assert capsys.readouterr().out == "no-such-package (not installed)\n"


def test_all_asks_for_the_full_help() -> None:
    assert not shows_help(["--help", "all"])
    assert not shows_help(["--help=all"])
    assert without_all(["test", "-h", "all"]) == ["test", "-h"]
    assert without_all(["--help=all"]) == ["--help"]
    assert without_all(["--model", "all"]) == ["--model", "all"]


@pytest.mark.parametrize(
    ("started_as", "typed", "named"),
    [
        ("train.py", "python train.py", "train.py"),
        ("/a/lightning_app/__main__.py", "python -m lightning_app", "lightning_app"),
        ("/a/bin/train-any", "train-any", "train-any"),
        ("/a/mine.py", "python mine.py", "mine.py"),
        ("/a/bin/pytest", "python train.py", "train.py"),
        ("/a/pytest/__main__.py", "python train.py", "train.py"),
        ("/a/ipykernel_launcher.py", "python train.py", "train.py"),
    ],
)
def test_messages_name_the_command(
    started_as: str, typed: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started_as])
    assert (command(), program()) == (typed, named)


def test_bash_completes_flags(train: InProcess) -> None:
    pytest.importorskip("shtab")
    outcome = train("--print_completion", "bash")
    assert (outcome.status, outcome.stderr) == (0, "")
    (train.folder / "completion").write_text(outcome.stdout)
    script = """source ./completion
COMP_WORDS=(train-any --max_e); COMP_CWORD=1
$(complete -p train-any | sed 's/.*-F \\([^ ]*\\).*/\\1/') train-any --max_e train-any
echo "${COMPREPLY[@]}"
"""
    run = subprocess.run(
        ["bash", "-c", script], cwd=train.folder, capture_output=True, text=True, timeout=20
    )
    assert run.stdout == "--max_epochs\n", run
