"""The wheel, in an empty folder: what it brings is enough to train."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT


def _run(*command: str, cwd: Path, site: Path) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=80, check=False
    )


@pytest.mark.timeout(240)
def test_the_wheel_trains_without_the_checkout(tmp_path: Path) -> None:
    site, folder, source = tmp_path / "site", tmp_path / "elsewhere", tmp_path / "source"
    folder.mkdir()
    shutil.copytree(ROOT / "lightning_app", source / "lightning_app")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    wheel = (*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    built = _run(*wheel, cwd=tmp_path, site=site)
    assert built.returncode == 0, built.stderr
    (file,) = tmp_path.glob("*.whl")
    installed = _run(
        *pip, "install", "--no-deps", "--target", str(site), str(file), cwd=tmp_path, site=site
    )
    assert installed.returncode == 0, installed.stderr

    where = _run(
        sys.executable,
        "-c",
        "import lightning_app; print(lightning_app.__file__)",
        cwd=folder,
        site=site,
    )
    assert where.stdout.startswith(str(site)), where
    train = str(site / "bin" / "train-any")
    flags = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--fast_dev_run")
    run = _run(sys.executable, train, *flags, cwd=folder, site=site)
    assert run.returncode == 0, run.stderr
    assert "2 CPU processes, ddp, global batch 30 = 15 + 15" in run.stdout
    refused = _run(
        sys.executable, "-m", "lightning_app", "--batch_size", "3", cwd=folder, site=site
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "lightning_app: error: --batch_size is not a flag: did you mean --data.batch_size? "
        "`python -m lightning_app --help all` lists every flag\n"
    )
    assert list(folder.iterdir()) == []
    shown = _run(sys.executable, train, "--help", cwd=folder, site=site)
    assert shown.stdout.startswith(
        "usage: train-any [fit | validate | test | predict | plan] [flags]"
    )
