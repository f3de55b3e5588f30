"""What a step gathers of all processes is followed to its loss."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.overrides import handle_torch_function
from torchmetrics import MeanSquaredError
from typing_extensions import override

from lightning_app.strategies.checks.gathers import Gathers
from lightning_app.strategies.checks.means import tells_of_weighted_means

SIZE, WORLD_SIZE = 4, 2


def all_gather(outputs: list[Tensor], value: Tensor, is_seen: bool = False) -> None:
    """As torch's own, of which modes hear, with the same values on all ranks; the first is put."""
    if not is_seen:
        handle_torch_function(all_gather, (value,), outputs, value, is_seen=True)
        return
    with torch.no_grad():
        for output in outputs:
            output.copy_(value)


def gathered(value: Tensor) -> list[Tensor]:
    outputs = [torch.zeros_like(value) for _ in range(WORLD_SIZE)]
    all_gather(outputs, value)
    return outputs


class AllGather(torch.autograd.Function):
    """Has gradients go back to all."""

    @staticmethod
    @override
    def forward(ctx: Any, value: Tensor) -> Any:
        return torch.stack(gathered(value))

    @staticmethod
    @override
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.sum(0)


def with_own(z: Tensor, given: Tensor) -> Tensor:
    parts = gathered(given)
    parts[0] = z
    return torch.cat(parts)


def with_own_written(z: Tensor) -> Tensor:
    parts = torch.stack(gathered(z))
    parts[0] = z
    return parts.flatten(0, 1)


def compared(z: Tensor) -> Tensor:
    return (z @ z.T).logsumexp(1).mean()


def logged(z: Tensor) -> Tensor:
    torch.stack(gathered(z.mean())).mean()
    return (z**2).mean()


def with_keys(z: Tensor) -> Tensor:
    """Of a network that is not trained."""
    return (z @ torch.cat(gathered(torch.ones(SIZE, 3))).T).mean()


LOST: dict[str, Callable[[Tensor], Tensor]] = {
    "own part put back": lambda z: compared(with_own(z, z)),
    "own part put back, the others detached": lambda z: compared(with_own(z, z.detach())),
    "a weight within it": lambda z: compared(with_own(z * WORLD_SIZE, z)) * 0.5,
    "own part written": lambda z: compared(with_own_written(z)),
    "all without gradients": lambda z: (z @ torch.stack(gathered(z)).flatten(0, 1).T).mean(),
    "a mean, by which the loss is divided": lambda z: z.mean() / torch.stack(gathered(z)).sum(),
}
KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "by a function of autograd": lambda z: compared(AllGather.apply(z).flatten(0, 1)),  # type: ignore[no-untyped-call]
    "own part put back, times the processes": lambda z: compared(with_own(z, z)) * WORLD_SIZE,
    "for a log": logged,
    "keys that are not trained": with_keys,
    "nothing": lambda z: (z**2).mean(),
}


def watched(compute: Callable[[Tensor], Tensor]) -> Iterator[Any]:
    """A loss, what follows its step, and what is told."""
    told, gathers = list[str](), Gathers()
    z = torch.ones(SIZE, 3, requires_grad=True) * 2
    with tells_of_weighted_means("A.training_step", SIZE, told.append, gathers):
        loss = compute(z)
    yield from (loss, gathers, told)


@pytest.mark.parametrize("name", [*LOST, *KEPT])
def test_gradients_that_go_back_to_one_process_are_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: WORLD_SIZE)
    loss, gathers, _ = watched((LOST | KEPT)[name])
    line = gathers.what_is_lost(loss, LightningModule())
    assert (line is not None) == (name in LOST)
    start = "LightningModule.training_step gathers values of all processes without their gradients"
    assert line is None or line.startswith(start)


@pytest.mark.parametrize("is_compared", [False, True])
def test_only_what_is_compared_with_those_of_all_is_not_told(is_compared: bool) -> None:
    def compute(z: Tensor) -> Tensor:
        every: Tensor = AllGather.apply(z)  # type: ignore[no-untyped-call]
        return compared(every.flatten(0, 1)[:SIZE] if is_compared else z)

    _, _, told = watched(compute)
    assert len(told) == (not is_compared), told


def test_objects_that_give_the_loss_a_value_of_all_processes() -> None:
    model: Any = LightningModule()
    model.synced = MeanSquaredError(dist_sync_on_step=True)
    model.shown = MeanSquaredError(dist_sync_on_step=True)
    model.own = MeanSquaredError()
    y = torch.ones(SIZE, 2, requires_grad=True)
    losses = [
        metric(y * 2, torch.ones(SIZE, 2)) for metric in (model.synced, model.shown, model.own)
    ]
    line = Gathers().what_is_lost(2 * losses[0] + losses[2], model)
    assert line is not None
    assert line.startswith("synced, with dist_sync_on_step=True, gives the loss")
    assert Gathers().what_is_lost(losses[2], model) is None
