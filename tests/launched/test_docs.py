"""The commands of `docs/beyond_one_machine.md`, and the scripts that it names.

They are run as they are written by test_two_hosts.py, which needs root, and by test_slurm.py, which
needs a Slurm; here they are looked at everywhere.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from lightning_app.cli import main
from tests.command import ROOT
from tests.launched.page import COMMANDS, PAGE


def test_the_page_has_these_commands() -> None:
    words = [re.sub(r"^(\w+=\S+ )+", "", command).split()[0] for command in COMMANDS]
    assert words == ["torchrun", "torchrun", "sbatch", "torchrun", "srun", "python"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "torchrun " in c])
def test_torchrun_takes_them(command: str) -> None:
    given = shlex.split(command)
    flags = parse_args(given[given.index("torchrun") + 1 :])  # type: ignore[no-untyped-call]
    assert flags.training_script == ("lightning_app.doctor" if flags.module else "train.py")
    assert flags.rdzv_backend == "c10d"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python train.py")])
def test_the_plan_is_as_shown(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    main(shlex.split(command)[2:])
    told = capsys.readouterr().out.splitlines()
    shown = PAGE[PAGE.index("1024 ranks: ") :].split("```")[0].splitlines()
    for line in shown:
        start = line.removesuffix("…").rstrip()
        assert any(one.startswith(start) for one in told), line


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("sbatch")])
def test_the_scripts_are_there_and_sound(command: str) -> None:
    assert (ROOT / command.split()[1]).exists()
    for script in (ROOT / "configs" / "slurm").glob("*.sbatch"):
        subprocess.run([shutil.which("bash") or "bash", "-n", str(script)], check=True)
        assert "--ckpt_path continue --requeue" in script.read_text()
        assert f"configs/slurm/{script.name}" in PAGE
