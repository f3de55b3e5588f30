"""Hooks of any kind, set at any time, are called as by a plain Trainer, and left as they are."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app.callbacks import callbacks as run_callbacks
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.strategies import SingleDeviceStrategy
from tests.runs import fit
from tests.user_modules import Shuffled, Submodule
from tests.wild.tracing import describe

# Not those of checkpoints, which are saved at other moments.
OF_CALLBACK = [n for n in dir(Callback) if n.startswith("on_") and "checkpoint" not in n]
OF_MODEL = [n for n in dir(LightningModule) if n.startswith("on_") and "checkpoint" not in n]
OF_MODEL.remove("on_gpu")  # which is no hook
OF_MODEL += ["backward", "configure_gradient_clipping", "optimizer_step", "optimizer_zero_grad"]
OF_MODEL += ["setup", "teardown"]
# A plain Trainer fails where one of these is an object of a class that can be called.
FUNCTIONS = ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"]
FUNCTIONS += ["on_validation_model_train"]
OF_MODEL = [name for name in OF_MODEL if name not in FUNCTIONS]

Calls = list[str]
Hook = Callable[..., Any]


class Called:
    """A hook that is an object."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the hook that it was made of."""
        return self.hook(*args, **kwargs)


def mock(hook: Hook) -> Mock:
    return Mock(side_effect=hook)


def watch_all(owner: Any, calls: Calls, kind: str) -> None:
    names = OF_CALLBACK if isinstance(owner, Callback) else OF_MODEL
    watch(owner, names, calls, KINDS[kind])
    if names is OF_MODEL and kind != "object":
        watch(owner, FUNCTIONS, calls, KINDS[kind])


KINDS: dict[str, Callable[[Hook], Any]] = {"Mock": mock, "object": Called, "partial": partial}


def watch(owner: Any, names: Sequence[str], calls: Calls, kind: Callable[[Hook], Any]) -> None:
    """Give an object hooks of its own, which note that they are called and do as the usual ones."""
    for name in names:
        usual = getattr(owner, name)

        def note(*args: Any, usual: Hook = usual, **kwargs: Any) -> Any:
            given = ", ".join(map(describe, [*args, *kwargs.values()]))
            calls.append(f"{usual.__self__.__class__.__name__}.{usual.__name__}({given})")  # type: ignore[attr-defined]
            return usual(*args, **kwargs)

        setattr(owner, name, kind(note))


class Watched(Callback):
    """Has no hook of its own, but for those that it is given."""


class Changes(Callback):
    """Calls its own hooks, and changes who listens while the run goes on."""

    def __init__(self, calls: Calls, kind: str, late: Sequence[Any]) -> None:
        self.calls, self.kind, self.late = calls, kind, late
        self.added = Watched()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for owner in self.late:
            watch_all(owner, self.calls, self.kind)

    @override
    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.on_after_backward(trainer, args[0])
        if trainer.global_step == 2:
            watch(self.added, ["on_before_zero_grad"], self.calls, KINDS[self.kind])
            callbacks.append(self.added)
        if trainer.global_step == 4:
            callbacks.remove(self.added)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_batch_end(trainer, pl_module, None, None, -1)
        for name in OF_MODEL + FUNCTIONS:  # from the second epoch on
            vars(pl_module).pop(name, None)


def trace(folder: Path, kind: str, is_late: bool, is_plain: bool) -> tuple[Calls, dict[str, Any]]:
    """Train, and give the calls, and the weights that came of it."""
    torch.manual_seed(1)
    calls: Calls = []
    model, watched = Submodule(), Watched()
    owners = (model, watched)
    changes = Changes(calls, kind, owners if is_late else ())
    trainer = Trainer(
        strategy="auto" if is_plain else SingleDeviceStrategy(),
        callbacks=[watched, changes, *([] if is_plain else run_callbacks())],
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=not is_plain,
    )
    if not is_late:
        for owner in owners:
            watch_all(owner, calls, kind)
    own = dict(vars(watched))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer.fit(model, Shuffled(shuffle=False))
    if not is_late:
        now = dict(vars(watched))
        del now["log"], now["log_dict"]  # Lightning's
        assert now == own, "a callback is left as it was"
    return calls, model.state_dict()


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_called_as_by_a_plain_trainer(kind: str, is_late: bool, tmp_path: Path) -> None:
    plain, plain_weights = trace(tmp_path / "plain", kind, is_late, is_plain=True)
    calls, weights = trace(tmp_path / "ours", kind, is_late, is_plain=False)
    called = {call.split("(")[0].split(".")[1] for call in plain}
    assert called >= {"on_before_zero_grad", "on_after_backward", "on_train_batch_end", "backward"}
    assert calls == plain
    for name, weight in plain_weights.items():
        assert torch.equal(weights[name], weight), name


class SetsOne(Callback):
    """Begins to listen as training does."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.on_train_batch_end = Mock()  # type: ignore[method-assign]


def test_a_hook_that_comes_too_late_for_an_execution_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Submodule()
    callbacks = [StepsPerExecution(3), SetsOne()]
    flags: dict[str, Any] = {"max_epochs": 1, "log_every_n_steps": 50}
    fit("single_device", 1, model, Shuffled(), callbacks=callbacks, **flags)
    # Executions of one step, which is logged, of three and of two.
    assert model.on_train_batch_end.call_count == 3  # type: ignore[attr-defined]
    line = "Submodule.on_train_batch_end was set after training began"
    assert capsys.readouterr().err.count(line) == 1
