"""`--compile`: compiled, and nothing else changes."""

import pickle
import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch._dynamo.utils import counters
from typing_extensions import override

from lightning_app.speed.compile import CompiledForward
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


def test_the_modules_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def spy(forward: Any) -> Any:
        def compiled(*args: Any) -> Any:
            called.append(forward)
            return forward(*args)

        return compiled

    monkeypatch.setattr(torch, "compile", spy)
    model, x = _model(), torch.ones(2, 5)
    known, before = model.body.forward, dict(vars(model.body))
    callback, trainer = CompiledForward(), Trainer(accelerator="cpu", logger=False)
    callback.on_fit_start(trainer, model)
    model.body(x)
    assert (vars(model.body), called) == (before, [known])

    for copy in (deepcopy(model.body), pickle.loads(pickle.dumps(model.body))):
        for parameter in copy.parameters():
            torch.nn.init.zeros_(parameter)
        assert copy(x).count_nonzero() == 0
    model.body.eval()(x)
    model.body.train().forward = lambda x: x  # type: ignore[method-assign]
    assert model.body(x) is x
    del model.body.forward
    assert called == [known]

    callback.teardown(trainer, model, "fit")
    model.body(x)
    assert called == [known]
    pickle.dumps(callback)


class Root(LightningModule):
    """Has parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 2))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def test_a_step_in_the_place_of_the_forward_is_called_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward: forward)
    model, x = Root(), torch.ones(2, 5)
    callback, trainer = CompiledForward(), Trainer(accelerator="cpu", logger=False)
    callback.on_fit_start(trainer, model)
    own = model.forward

    def step(x: torch.Tensor) -> torch.Tensor:
        model.forward = own  # type: ignore[method-assign]
        output: torch.Tensor = model(x) + 1
        return output

    for _ in range(2):  # as Lightning's strategies have a step called through their wrapper
        model.forward = step  # type: ignore[method-assign]
        assert model(x).tolist() == [[6.0, 6.0]] * 2
        assert vars(model)["forward"] == own
    callback.teardown(trainer, model, "fit")


def _model() -> Submodule:
    torch.manual_seed(0)
    return Submodule()
