"""A loader's workers draw ahead: of a run that is continued in the order of its epoch, too."""

from pathlib import Path

import pytest
import torch

from lightning_app.cli import main

FLAGS = (
    *("--accelerator", "cpu", "--precision", "64-true", "--data.length", "100"),
    *("--model.log_shapes", "off", "--data.num_workers", "1"),
)


def weights(folder: Path) -> torch.Tensor:
    last = folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)["state_dict"]
    return torch.cat([tensor.flatten() for tensor in state.values()])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("first", [("--max_epochs", "2"), ("--max_steps", "6")])  # its end; within
def test_the_order_is_that_of_the_epoch(
    first: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("whole", "continued"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    main([*FLAGS, "--max_epochs", "4"])
    monkeypatch.chdir(tmp_path / "continued")
    main([*FLAGS, *first])
    main([*FLAGS, "--max_epochs", "4", "--ckpt_path", "continue"])
    torch.testing.assert_close(
        weights(tmp_path / "continued"), weights(tmp_path / "whole"), rtol=1e-12, atol=1e-12
    )
