"""`--virtual_ranks` on the command line: what is told of the ranks, and what a run keeps."""

from pathlib import Path

import pytest
import torch

from lightning_app.own_part import KEY
from lightning_app.strategies.batch.sharding import shard_sizes
from tests.command import ROOT, transcript
from tests.events import scalars
from tests.in_process import InProcess
from tests.train_to_end import train


@pytest.mark.filterwarnings("default")
def test_the_tutorial_as_on_eight_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = InProcess(tmp_path, monkeypatch, capsys)
    tutorial = f"--config={ROOT}/configs/tutorial.yaml"
    outcome = run(tutorial, "--virtual_ranks", "8")
    assert outcome.status == 0
    assert outcome.stdout.startswith(
        "1 CPU process, single_device, 8 virtual ranks, 1 CPU thread, global batch 30 = 4 + 4 + "
    )
    expected = []
    for size in (30, 30, 30, 10):
        expected += [
            f"\tIn Model: input size torch.Size([{n}, 5]) output size torch.Size([{n}, 2])"
            f"  (rank {rank}, cpu)"
            for rank, n in enumerate(shard_sizes(size, 8))
        ]
        expected.append(
            f"Outside: input size torch.Size([{size}, 5]) output_size torch.Size([{size}, 2])"
        )
    assert transcript(outcome.stdout) == expected
    assert "coverage" not in outcome.stdout  # nothing is missing, or repeated
    folder = tmp_path / "lightning_logs" / "version_0"
    curves = scalars(folder)
    assert [curves[f"batch_size/rank_{rank}"][2] for rank in range(8)] == [*[4] * 6, 3, 3]
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved[KEY]["virtual_ranks"]["--virtual_ranks"] == "8"
    outcome = run(tutorial, "--virtual_ranks", "4", "--ckpt_path", "last", "--max_epochs", "2")
    assert outcome.status == 0
    assert "continued: --virtual_ranks was 8 and is 4, so the numbers differ" in outcome.stderr
    assert "cannot be loaded" not in outcome.stderr
    for command in ("validate", "test"):
        assert run(command, "--virtual_ranks", "8", "--ckpt_path", "last").status == 0


def test_no_advice_on_values_that_are_put_together(tmp_path: Path) -> None:
    """Lightning's, to log with `sync_dist=True`: here a value is that of all ranks already."""
    flags = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--max_epochs", "1")
    model = ("--model", "tests.user_modules.Submodule", "--monitor", "val_loss")
    outcome = train("--virtual_ranks", "2", *model, *flags, cwd=tmp_path)
    assert (outcome.status, outcome.stderr) == (0, "")
