"""`--virtual_ranks V`: a run's numbers are those of V ranks, on any number of devices up to V."""

from lightning_app.strategies.virtual.determinism import NUM_THREADS, fix_workspace
from lightning_app.strategies.virtual.refused import too_many_devices
from lightning_app.strategies.virtual.strategy import (
    VirtualDDPStrategy,
    VirtualRanks,
    VirtualSingleDeviceStrategy,
)

__all__ = [
    "NUM_THREADS",
    "VirtualDDPStrategy",
    "VirtualRanks",
    "VirtualSingleDeviceStrategy",
    "fix_workspace",
    "too_many_devices",
]
