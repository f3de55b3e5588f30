"""Where the ranks are: what was asked for, what a launcher has started, what this machine has."""

import os
from typing import Any

import torch
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment

from lightning_app import strategies
from lightning_app.cli.flags import find_strategy
from lightning_app.cli.layout import Layout, count_devices, follow, resolve
from lightning_app.errors import UsageError
from lightning_app.limits import max_processes
from lightning_app.processes.launched import LaunchedEnvironment
from lightning_app.processes.placement import Placement, placement, starts_nodes_itself
from lightning_app.strategies.virtual import VirtualRanks, too_many_devices


class Placing:
    """A run's layout, and the cluster environment that tells each process its place in it.

    Args:
        asked: The Trainer's flags.
        virtual_ranks: `--virtual_ranks`.

    Attributes:
        placed: Where a launcher has put this process; `None` without one.
        flags: For the Trainer: the layout, and the environment among the plugins.
        warning: What of it is less than was asked for, in one line; `None` if nothing is.

    Raises:
        ValueError: A flag contradicts another, the launcher, or the machine.
    """

    def __init__(self, asked: Any, virtual_ranks: int | None) -> None:
        strategy = find_strategy(asked.strategy)
        plugins = asked.plugins if isinstance(asked.plugins, list) else [asked.plugins]
        has_own = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
        has_own |= getattr(strategy, "cluster_environment", None) is not None
        self.placed = None if has_own else placement(os.environ)
        wanted = Layout(asked.accelerator, asked.devices, asked.num_nodes, strategy)
        followed = follow(wanted, self.placed, has_own or starts_nodes_itself(os.environ))
        layout, warning = resolve(
            followed, torch.cuda.device_count(), MPSAccelerator.is_available(), max_processes()
        )
        _check_all_have_one(layout, self.placed)
        self.warning = warning if wanted.devices == followed.devices else None
        self.flags: dict[str, Any] = dict(vars(layout))
        if virtual_ranks is not None:
            self.flags["strategy"] = _virtual(virtual_ranks, layout)
        if not has_own and (environment := _environment(self.placed)) is not None:
            self.flags["plugins"] = [p for p in plugins if p is not None] + [environment]

    @property
    def is_shared(self) -> bool:
        """Whether a launcher has started other processes, too."""
        return self.placed is not None and self.placed.world_size > 1


def _environment(placed: Placement | None) -> ClusterEnvironment | None:
    """The one to use; `None` leaves the choice to Lightning."""
    if placed is not None:
        return LaunchedEnvironment(placed)
    # In a batch script, or with one task: not one of several, as Lightning would take it.
    return LightningEnvironment() if "SLURM_NTASKS" in os.environ else None


def _virtual(num_ranks: int, layout: Layout) -> VirtualRanks:
    """The strategy that runs virtual ranks on a layout, where there is one."""
    num_devices = (count_devices(layout.devices) or 1) * layout.num_nodes
    if num_devices > num_ranks:
        raise UsageError(too_many_devices(num_ranks, num_devices))
    strategy = strategies.with_virtual_ranks(layout.strategy, num_ranks)
    if strategy is None:
        raise UsageError(
            f"--virtual_ranks with --strategy {layout.strategy}: it is for one device and ddp"
        )
    return strategy


def _check_all_have_one(layout: Layout, placed: Placement | None) -> None:
    """Refuse fewer devices than processes: which of them had none would be left to chance."""
    count = count_devices(layout.devices)
    if placed is None or placed.world_size == 1 or count in (None, placed.local_world_size):
        return
    raise ValueError(
        f"{placed.launcher} has started {placed.local_world_size} processes on this host, and each "
        f"of them sees {count} GPU{'' if count == 1 else 's'}: start one process for each GPU, and "
        "let each see all of them (under Slurm: --gres=gpu:N, without --gpus-per-task)"
    )
