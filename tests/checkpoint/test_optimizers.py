"""States of optimizers and schedulers go on, or are told to begin anew."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, SequentialLR
from typing_extensions import override

from lightning_app.checkpoint.resume import Resume
from lightning_app.model import LinearModule
from tests.runs import Run, SaveAt, fit


class Around(Optimizer):
    """Steps as another optimizer does, whose groups it gives, as Lookahead of some libraries."""

    def __init__(self, base: Optimizer) -> None:
        self._base = base
        super().__init__(base.param_groups, base.defaults | {"alpha": 0.5})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The other's."""
        return self._base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None: ...

    @override
    def add_param_group(self, group: dict[str, Any]) -> None: ...

    @override
    def step(self, closure: Any = None) -> Any:
        return self._base.step(closure)


class Wraps(LinearModule):
    """Is trained by such an optimizer."""

    @override
    def configure_optimizers(self) -> Any:
        self.base = SGD(self.parameters(), lr=0.02, momentum=0.9)
        return Around(self.base)


class WrapsOneWithoutState(LinearModule):
    """Of an optimizer without momentum nothing is lost."""

    @override
    def configure_optimizers(self) -> Any:
        return Around(SGD(self.parameters(), lr=0.02))


class Adds(SGD):
    """Adds to its defaults when it has its groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.defaults["decay"] = 0.9


class AddsDefaults(LinearModule):
    """Is trained by such an optimizer."""

    @override
    def configure_optimizers(self) -> Any:
        return Adds(self.parameters(), lr=0.02)


@pytest.mark.parametrize(
    ("kind", "anew"), [(Wraps, ["_base of Around"]), (WrapsOneWithoutState, []), (AddsDefaults, [])]
)
def test_an_optimizer_of_ones_own_goes_on_and_one_within_it_is_told_to_begin_anew(
    kind: type[LinearModule],
    anew: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "kept.ckpt"

    def train(ckpt_path: str | None, *callbacks: Callback) -> Run:
        model, more = kind(log_shapes="off"), [*callbacks, Resume()]
        return fit("single_device", 1, model, None, ckpt_path, max_steps=8, callbacks=more)

    assert train(None, SaveAt(6, path)).metrics.keys() == train(str(path)).metrics.keys()
    told = [line for line in capsys.readouterr().err.splitlines() if "begins anew" in line]
    assert [line.split(": ")[1] for line in told] == anew


def steady(epoch: int) -> float:
    """What a learning rate is multiplied with."""
    return 1.0


class KeepsScheduler(LinearModule):
    """Keeps two schedulers in attributes, of which it returns one, within another."""

    @override
    def configure_optimizers(self) -> Any:
        base = SGD(self.parameters(), lr=0.02)
        self.by_hand, self.returned = LambdaLR(base, steady), LambdaLR(base, steady)
        last = LambdaLR(base, steady)
        return [base], [SequentialLR(base, [self.returned, last], [2])]


def test_a_scheduler_that_is_not_saved_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.ckpt"
    for ckpt_path, *callbacks in ((None, SaveAt(2, path)), (str(path),)):
        model = KeepsScheduler(log_shapes="off")
        capsys.readouterr()
        more = [*callbacks, Resume()]
        fit("single_device", 1, model, None, ckpt_path, max_steps=4, callbacks=more)
        told = [line for line in capsys.readouterr().err.splitlines() if "begins anew" in line]
        assert [line.split(":")[1] for line in told] == (
            [" by_hand of KeepsScheduler"] if ckpt_path else []
        )
