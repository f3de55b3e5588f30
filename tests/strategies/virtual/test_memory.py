"""How much memory virtual ranks take, in units of all gradients."""

import weakref
from typing import Any

import pytest
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import override

from lightning_app import strategies
from tests.ranks import run_ranks
from tests.runs import fit
from tests.user_modules import Shuffled, Submodule


class Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many bytes there were at most at once, of all that torch has made since."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: Any = WeakIdKeyDictionary(ref_type=weakref.ref)
        self.most = 0

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._known[storage] = storage.nbytes()
        self.most = max(self.most, sum(self._known.values()))
        return result


class Wide(Submodule):
    """Has gradients beside which all else is small, and no optimizer that keeps anything."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 1), nn.Linear(1, 100_000), nn.Linear(100_000, 2))


def most_gradients(devices: int) -> float:
    """The memory that a run takes at most, in units of all its gradients."""
    model: Any = Wide()
    virtual: Any = strategies.with_virtual_ranks("ddp" if devices > 1 else "single_device", 8)
    before = sum(p.numel() * 4 for p in model.parameters())
    flags: dict[str, Any] = {"precision": "32-true", "max_epochs": 1, "limit_val_batches": 0}
    with Storages() as storages:
        fit(virtual, devices, model, Shuffled(16, 8), **flags)
    return float(storages.most / before)


def test_memory_is_bounded() -> None:
    assert 1 < most_gradients(1) <= 2 * 3 + 2


@pytest.mark.slow
@pytest.mark.parametrize("devices", [3, 5])
def test_memory_is_bounded_in_several_processes(devices: int) -> None:
    assert all(1 < most <= 2 * 3 + 2 for most in run_ranks(most_gradients, devices, devices))
