"""What a step gathers of all processes is followed to its loss."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as functional
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


def with_own_written_by_view(z: Tensor) -> Tensor:
    parts = torch.stack(gathered(z))
    parts.view(WORLD_SIZE * SIZE, 3)[:SIZE] = z
    return compared(parts.flatten(0, 1))


def in_buffer(parts: list[Tensor]) -> Tensor:
    buffer = torch.zeros(WORLD_SIZE * SIZE, 3)
    for number, part in enumerate(parts):
        buffer[SIZE * number : SIZE * (number + 1)] = part
    return buffer


def parts_of_buffer(z: Tensor) -> Tensor:
    buffer = torch.zeros(WORLD_SIZE * SIZE, 3)
    all_gather(list(buffer.chunk(WORLD_SIZE)), z)
    return (z @ buffer.T).mean()


def with_targets(z: Tensor) -> Tensor:
    """As SwAV's."""
    with torch.no_grad():
        targets = torch.cat(gathered(z))
        targets = (targets / targets.sum(0)).softmax(1)[:SIZE]
    return (targets * z.log_softmax(1)).mean()


def beside_features(z: Tensor) -> Tensor:
    mean = torch.stack(gathered(torch.ones(SIZE, 3).mean(0))).mean(0)
    return torch.cat([z, mean.expand(SIZE, 3)], 1).square().mean()


def number(z: Tensor) -> Tensor:
    return torch.stack(gathered(z.detach().mean())).mean()


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
    "own part written by a view": with_own_written_by_view,
    "parts put into a buffer": lambda z: (z @ in_buffer(gathered(z)).T).mean(),
    "parts of a buffer": parts_of_buffer,
    "own part written": lambda z: compared(with_own_written(z)),
    "all without gradients": lambda z: (z @ torch.stack(gathered(z)).flatten(0, 1).T).mean(),
    "a mean, by which the loss is divided": lambda z: z.mean() / torch.stack(gathered(z)).sum(),
}
KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "by a function of autograd": lambda z: compared(AllGather.apply(z).flatten(0, 1)),  # type: ignore[no-untyped-call]
    "own part put back, times the processes": lambda z: compared(with_own(z, z)) * WORLD_SIZE,
    "for a log": logged,
    "negatives, detached": lambda z: (z @ torch.cat(gathered(z)).detach().T).mean(),
    "weights, detached": lambda z: (z / torch.stack(gathered(z)).mean().detach()).mean(),
    "targets without gradients": with_targets,
    "a choice of samples": lambda z: z[z.mean(1) >= torch.stack(gathered(z)).median()].mean(),
    "a mean beside features": beside_features,
    "a number beside the loss": lambda z: torch.stack([z.mean(), number(z)]).sum(),
    "keys that are not trained": with_keys,
    "nothing": lambda z: (z**2).mean(),
}


def watched(compute: Callable[[Tensor], Tensor]) -> tuple[Tensor, Gathers, list[str]]:
    """A loss, what follows its step, and what is told."""
    told, gathers = list[str](), Gathers()
    z = torch.ones(SIZE, 3, requires_grad=True) * 2
    with tells_of_weighted_means("A.training_step", SIZE, told.append, gathers):
        loss = compute(z)
    return loss, gathers, told


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


def test_nothing_is_kept_of_what_is_computed_of_gathered_values() -> None:
    def compute(z: Tensor) -> Tensor:
        with torch.no_grad():
            values = torch.cat(gathered(z))
            kept.extend(weakref.ref(values := values.softmax(0)) for _ in range(5))
        return z.mean()

    kept: list[weakref.ref[Tensor]] = []
    watched(compute)
    assert [ref() for ref in kept] == [None] * 5


def test_what_cannot_be_looked_at_is_passed_by() -> None:
    def compute(z: Tensor) -> Tensor:
        buffer = torch.zeros(WORLD_SIZE, SIZE, 3)
        parts = list(buffer.unbind(0))
        all_gather(parts, z)
        buffer[0] = z
        return parts[0].shape.numel() * z.mean()

    watched(compute)


@pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional")
def test_torchs_own_functions_are_seen(tmp_path: Path) -> None:
    def of_list(z: Tensor) -> Tensor:
        dist.all_gather(every := [torch.zeros_like(z)], z)
        return compared(every[0] * z)

    def with_gradients(z: Tensor) -> Tensor:
        return compared(torch.cat(functional.all_gather(z)))  # type: ignore[no-untyped-call]

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        for compute in (of_list, with_gradients):
            loss, gathers, _ = watched(compute)
            is_told = gathers.what_is_lost(loss, LightningModule()) is not None
            assert is_told == (compute is not with_gradients)
    finally:
        dist.destroy_process_group()
