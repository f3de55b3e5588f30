"""Odd command lines and environments end in one line, and legitimate ones in a whole run."""

import re
from pathlib import Path

import pytest

from tests.bad_input.running import refused_well, run_odd, went_well
from tests.bad_input.table import ACCEPTED, LATE, REFUSED, SIBLINGS, WHOLE
from tests.train_to_end import Forks

# Two of five are much like those before them.
SIBLING = [command for number, command in enumerate(REFUSED) if number % 5 in (2, 4)]


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=pytest.mark.slow) if c in SIBLING else c for c in REFUSED],
)
def test_what_is_refused_is_one_line_and_leaves_nothing(
    command: str, forks: Forks, tmp_path: Path
) -> None:
    ended = run_odd(forks, tmp_path, command)
    assert refused_well(ended), ended
    assert REFUSED[command] in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", SIBLINGS)
def test_siblings_end_as_told(command: str, forks: Forks, tmp_path: Path) -> None:
    ended, told = run_odd(forks, tmp_path, command), SIBLINGS[command]
    assert went_well(ended) if told == WHOLE else refused_well(ended), ended
    assert told == WHOLE or told in ended.stderr


def test_the_table_is_large() -> None:
    assert len({*REFUSED, *SIBLINGS, *LATE, *ACCEPTED}) >= 600


@pytest.mark.parametrize("command", LATE)
def test_what_is_known_late_is_one_line(command: str, forks: Forks, tmp_path: Path) -> None:
    ended = run_odd(forks, tmp_path, command)
    assert (ended.status, ended.stderr.count("\n"), ended.is_left) == (2, 1, False), ended
    assert LATE[command] in ended.stderr


@pytest.mark.parametrize("command", ACCEPTED)
def test_what_is_right_runs(command: str, forks: Forks, tmp_path: Path) -> None:
    ended = run_odd(forks, tmp_path, command)
    assert went_well(ended), ended


@pytest.mark.parametrize("layout", [(), ("--devices", "2", "--strategy", "ddp_fork")])
def test_a_model_that_does_not_take_the_random_data_is_one_line(
    layout: tuple[str, ...], forks: Forks, tmp_path: Path
) -> None:
    model = "tests.user_modules.Wide"
    ended = forks.run("--model", model, "--accelerator", "cpu", *layout, cwd=tmp_path)
    lines = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert (ended.status, "Traceback" in ended.stderr, ended.files) == (2, False, ()), ended
    assert len(lines) == 1
    assert re.fullmatch(
        r"train\.py: error: \S*user_modules\.py:\d+: RuntimeError: mat1 and mat2 shapes cannot be "
        rf"multiplied \(.*\)\. No --data: {model} is given random data, 5 numbers a sample: "
        "--data CLASS names its own",
        lines[0],
    )


BUGS = {
    "raises_on_import.Model": ("raise KeyError('mine')\n", "KeyError: 'mine'"),
    "reads_on_import.Model": ("open('no_such_file')\n", "No such file or directory"),
    "wrong_folder.Model": (
        "from lightning_app.model import LinearModule\n"
        "class Model(LinearModule):\n"
        "    def on_fit_start(self):\n"
        "        open('no_such_file')\n",
        "FileNotFoundError",
    ),
}


@pytest.mark.parametrize("model", BUGS)
def test_a_bug_of_the_users_keeps_its_traceback(model: str, forks: Forks, tmp_path: Path) -> None:
    source, error = BUGS[model]
    (tmp_path / f"{model.split('.')[0]}.py").write_text(source)
    ended = forks.run(
        "--model", model, "--accelerator", "cpu", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
    )
    assert ended.status == 1, ended
    assert "Traceback" in ended.stderr
    assert error in ended.stderr
