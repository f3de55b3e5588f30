"""One step of a module under `dp`, to hold against the same on one device."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_app.strategies import DataParallelStrategy

Step = Callable[[nn.Module, Any], Any]

B = 6  # samples in a batch


def run_step(module: nn.Module, step: Step, batch: Any, devices: int, **seen: Any) -> Any:
    """A step on a batch of B samples: its output, and the module's gradients and buffers."""
    strategy = DataParallelStrategy()
    strategy.parallel_devices = [torch.device("cpu")] * devices
    vars(strategy)["_sizes_asked"] = lambda: {B}
    strategy._stacks_samples = seen.get("stacked", True)
    strategy._calls.follow()
    try:
        with strategy._splits(batch):
            output = step(module, batch)
    finally:
        strategy._calls.stop()
    tensors = list(_tensors(output))
    losses = [t.square().sum() * (i + 1) for i, t in enumerate(tensors) if t.requires_grad]
    torch.autograd.backward(losses)
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return tensors, grads, [b.clone() for b in module.buffers()]


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for part in output for t in _tensors(part)]


def assert_as_on_one_device(
    module: nn.Module, step: Step, batch: Any, buffers: bool = True, **seen: Any
) -> None:
    module = module.double()
    want = run_step(copy.deepcopy(module), step, batch, 1, **seen)
    for devices in (2, 3):
        own = copy.deepcopy(module)
        names = [(part, dict(vars(part))) for part in own.modules()]
        got = run_step(own, step, batch, devices, **seen)
        for mine, theirs in zip(got[: 2 + buffers], want[: 2 + buffers], strict=True):
            assert len(mine) == len(theirs)
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert all(vars(part).keys() == before.keys() for part, before in names)


def sizes_seen(module: nn.Module) -> list[tuple[int, ...]]:
    """The sizes that hooks within the replicas see from now on."""
    sizes: list[tuple[int, ...]] = []
    for part in module.children():
        part.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    return sizes


class Call(nn.Module):
    """A module whose forward is given."""

    def __init__(self, forward: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.function = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function makes of the parts and the arguments."""
        return self.function(*self.parts, *args, **kwargs)


def x(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)
