"""A Lightning with another name within is noticed: refused, or its own way is taken.

Each name is changed in the whole of a copy of Lightning, which goes on working by itself.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_app.inside import check_names
from lightning_app.inside.names import FOR_SPEED, NEEDED, NEEDED_LATER

ROOT = Path(__file__).parent.parent.parent
INSIDE = "".join(path.read_text() for path in (ROOT / "lightning_app" / "inside").glob("*.py"))
QUICK_LOGS = {"_ResultCollection"}  # which `log_quickly` alone imports
IMPORTED = set(
    re.findall(r"(?<!\w)_\w+", " ".join(re.findall(r"from lightning\.\S* import .*", INSIDE)))
)
IMPORTED |= set(re.findall(r"^    (_[A-Z]\w+),$", INSIDE, re.MULTILINE))
# Public words, that occur everywhere: they are looked for on an object alone.
WORDS = {
    *("done", "iterators", "optim_progress", "reset", "run"),
    *("on_advance_end", "on_advance_start", "on_epoch_end", "on_run_start"),
    *("_computed", "_forward_cache", "_update_count"),  # of torchmetrics
}
RENAMED_FOR_SPEED = {name for names in FOR_SPEED.values() for name in names} | QUICK_LOGS
NAMES = {name for names in {**NEEDED, **NEEDED_LATER}.values() for name in names} | IMPORTED
RENAMED = sorted(NAMES - WORDS - RENAMED_FOR_SPEED)
RENAMED_FOR_SPEED -= WORDS


def trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)


def test_this_lightning_is_known() -> None:
    check_names(trainer())


def test_every_private_name_is_listed() -> None:
    used = set(re.findall(r"(?<=[\w)])\.(_[a-z]\w*)", INSIDE)) - {"_do_nothing", "__class__"}
    assert used <= NAMES | RENAMED_FOR_SPEED, used - NAMES
    assert len(IMPORTED) >= 9


@pytest.mark.parametrize("name", ["_restarting", "_data_fetcher"])
def test_a_name_that_is_gone_is_told(name: str) -> None:
    changed = trainer()
    delattr(changed.fit_loop, name)
    with pytest.raises(MisconfigurationException, match=rf"has no fit_loop\.{name}, which"):
        check_names(changed)


@pytest.fixture(scope="module")
def copy_of_lightning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("renamed")
    shutil.copytree(
        Path(lightning.__file__).parent,
        folder / "lightning",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return folder


def train(folder: Path, renamed: Path | None) -> subprocess.CompletedProcess[str]:
    """Train for a few steps, with a Lightning that comes first on the path."""
    paths = [*([str(renamed)] if renamed else []), str(ROOT)]
    flags = ["--accelerator", "cpu", "--max_steps", "7", "--data.length", "200"]
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *flags],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
    )


def rename(package: Path, name: str, other: str) -> list[Path]:
    """Rename in every file, and tell in which."""
    changed = []
    for path in package.rglob("*.py"):
        text = path.read_text()
        other_text = re.sub(rf"(?<!\w){name}(?!\w)", other, text)
        if other_text != text:
            path.write_text(other_text)
            changed.append(path)
    return changed


@pytest.mark.slow
@pytest.mark.timeout(250)
@pytest.mark.parametrize("name", [*RENAMED, *sorted(RENAMED_FOR_SPEED)])
def test_a_renamed_name_is_noticed(name: str, copy_of_lightning: Path, tmp_path: Path) -> None:
    changed = rename(copy_of_lightning, name, f"{name}_renamed")
    assert changed
    try:
        outcome = train(tmp_path, copy_of_lightning)
    finally:
        for path in changed:
            text = path.read_text()
            path.write_text(text.replace(f"{name}_renamed", name))
    if name in RENAMED:
        assert outcome.returncode == 2, outcome.stderr
        (line,) = outcome.stderr.splitlines()
        assert name in line
        assert list(tmp_path.iterdir()) == []
        return
    assert outcome.returncode == 0, outcome.stderr
    assert "steps go Lightning's own way" in outcome.stderr
    (tmp_path / "known").mkdir()
    assert train(tmp_path / "known", None).returncode == 0
    own, known = (
        torch.load(next(folder.rglob("last.ckpt")), weights_only=True)["state_dict"]
        for folder in (tmp_path / "lightning_logs", tmp_path / "known")
    )
    assert own.keys() == known.keys()
    assert all(torch.equal(own[key], known[key]) for key in own)
