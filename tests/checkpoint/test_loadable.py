"""What `weights_only=True` refuses is found in a checkpoint that was just written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_app.checkpoint.loadable import what_is_refused


class Own:
    """A class of the user's."""

    def __init__(self) -> None:
        self.values = [1, 2]


PLAIN = {
    "state_dict": nn.Linear(2, 2).state_dict(),
    "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "lr": 0.1}],
    "loops": {"a": (1, None, True, {"x"}), "b": 1.5 + 2j},
}


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ({}, []),
        ({"classes": np.array(["cat", "dog"])}, ["classes"]),
        ({"own": {"deep": [Own()]}, "score": np.float64(1.0)}, ["own", "score"]),
        ({"kind": Own, "path": Path("a")}, ["kind", "path"]),
    ],
)
def test_keys_are_named(more: dict[str, Any], keys: list[str], tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    torch.save(PLAIN | more, path)
    assert [line.split()[0] for line in what_is_refused(path)] == keys
    try:
        torch.load(path, weights_only=True)
    except Exception:
        assert keys
    else:
        assert not keys
