"""Where a batch meets devices: the strategies, the only code that knows about splitting."""

from typing import Any

from lightning.pytorch.strategies import DDPStrategy as LightningDDPStrategy
from lightning.pytorch.strategies import StrategyRegistry

from lightning_app.strategies.ddp import DDPStrategy
from lightning_app.strategies.dp import DataParallelStrategy
from lightning_app.strategies.single_device import SingleDeviceStrategy
from lightning_app.strategies.virtual import (
    VirtualDDPStrategy,
    VirtualRanks,
    VirtualSingleDeviceStrategy,
)

_OURS = (DDPStrategy, SingleDeviceStrategy, VirtualRanks)

__all__ = [
    "DDPStrategy",
    "DataParallelStrategy",
    "SingleDeviceStrategy",
    "VirtualRanks",
    "register",
    "splits_batches",
    "with_virtual_ranks",
]


def register() -> None:
    """Make the Trainer's plain flags ours: `dp`, `ddp` with all its variants, one device.

    Safe to call twice. Lightning's own stay reachable by class path.
    """
    for name, entry in list(StrategyRegistry.items()):
        if entry["strategy"] is LightningDDPStrategy:
            StrategyRegistry.register(
                name, DDPStrategy, entry["description"], override=True, **entry["init_params"]
            )
    for strategy in (DataParallelStrategy, SingleDeviceStrategy):
        StrategyRegistry.register(strategy.strategy_name, strategy, override=True)


def splits_batches(strategy: Any) -> bool:
    """Whether what the Trainer's `strategy` flag takes is one of ours, by name or as an object."""
    if isinstance(strategy, str):
        strategy = "ddp" if strategy == "auto" else strategy
        if strategy not in StrategyRegistry:
            return False
        return issubclass(StrategyRegistry[strategy]["strategy"], _OURS)
    return isinstance(strategy, _OURS)


def with_virtual_ranks(strategy: Any, num_ranks: int) -> VirtualRanks | None:
    """What runs virtual ranks in the place of a strategy; `None` if nothing does.

    Args:
        strategy: What the Trainer's `strategy` flag takes.
        num_ranks: How many virtual ranks.
    """
    name = "ddp" if strategy == "auto" else strategy
    if name == SingleDeviceStrategy.strategy_name:
        return VirtualSingleDeviceStrategy(virtual_ranks=num_ranks)
    if not isinstance(name, str) or name not in StrategyRegistry:
        return None
    entry = StrategyRegistry[name]
    if entry["strategy"] is not DDPStrategy:
        return None
    unused = "find_unused_parameters"  # all gradients are looked for in any case
    kept = {key: value for key, value in entry["init_params"].items() if key != unused}
    return VirtualDDPStrategy(virtual_ranks=num_ranks, **kept)
