"""`--compile`: compiled, and nothing else changes."""

import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from lightning_app.speed.compile import CompiledForward
from tests.runs import assert_same, fit
from tests.user_modules import Shuffled, Submodule

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("default::DeprecationWarning"),  # torch's compiler uses such things
]


def test_a_compiled_model_takes_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()
    model = _model()
    compiled = fit(
        "single_device",
        1,
        model,
        Shuffled(),
        max_epochs=2,
        callbacks=[CompiledForward()],
    )
    assert counters["stats"]["unique_graphs"] >= 1
    assert_same(compiled, fit("single_device", 1, _model(), Shuffled(), max_epochs=2))
    assert "forward" not in vars(model.body), "the model is given back as it was"


def _model() -> Submodule:
    torch.manual_seed(0)
    return Submodule()
