"""`--compile`: compiled, and nothing else changes."""

import pickle
import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch._dynamo.utils import counters

from lightning_app.speed.compile import CompiledForward, OwnForward
from tests.runs import assert_same, fit
from tests.user_modules import Shuffled, Submodule

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("default::DeprecationWarning"),  # torch's compiler uses such things
]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_model_takes_the_same_steps(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
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


def test_a_copy_has_weights_and_a_forward_of_its_own() -> None:
    model, patched = _model(), _model()
    own = patched.body.forward
    vars(patched.body)["forward"] = own
    callback, trainer = CompiledForward(), Trainer(accelerator="cpu", logger=False)
    for each in (model, patched):
        callback.on_fit_start(trainer, each)
        assert isinstance(each.body.forward, OwnForward)
        for copy in (deepcopy(each.body), pickle.loads(pickle.dumps(each.body))):
            assert not isinstance(copy.forward, OwnForward)
            for parameter in copy.parameters():
                torch.nn.init.zeros_(parameter)
            assert copy(torch.ones(2, 5)).count_nonzero() == 0
        callback.teardown(trainer, each, "fit")
    assert "forward" not in vars(model.body)
    assert vars(patched.body)["forward"] == own


def _model() -> Submodule:
    torch.manual_seed(0)
    return Submodule()
