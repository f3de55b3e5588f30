"""What is compared with a plain Trainer's trace is every hook that Lightning has."""

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.core.hooks import DataHooks, ModelHooks

from tests.wild.tracing import OF_SAVES
from tests.wild.users import hooks

LOADERS = {f"{stage}_dataloader" for stage in ("train", "val", "test", "predict")}
# Which faults end a run how is seen in test_faults.py; a model is configured in `configure_model`.
LEFT_OUT = OF_SAVES | {"on_exception", "configure_sharded_model"}


def public(*kinds: type) -> set[str]:
    names = {name for kind in kinds for name, value in vars(kind).items() if callable(value)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (hooks.Model, public(ModelHooks, DataHooks) - LOADERS),
        (hooks.SeveralLoaders, public(DataHooks)),
        (hooks.LooksOn, public(Callback)),
    ],
)
def test_every_hook_is_traced(kind: type, expected: set[str]) -> None:
    users = (base for base in kind.__mro__ if base.__module__.startswith("tests."))
    assert expected - LEFT_OUT <= {name for base in users for name in vars(base)}
