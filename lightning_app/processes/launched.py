"""What torchrun and srun tell of the ranks, in the form that a Trainer takes."""

from lightning.pytorch.plugins.environments import ClusterEnvironment
from typing_extensions import override

from lightning_app.processes.placement import Placement


class LaunchedEnvironment(ClusterEnvironment):
    """The ranks as their launcher has placed them, as many on each host as there may be.

    In the place of Lightning's own for torchrun, which wants equal hosts, and for Slurm, which
    saves within a signal's handler, in the middle of a step.

    Args:
        placed: Where this process is.
    """

    def __init__(self, placed: Placement) -> None:
        super().__init__()
        self._placed = placed

    @property
    @override
    def creates_processes_externally(self) -> bool:
        return True

    @property
    @override
    def main_address(self) -> str:
        return self._placed.address or "127.0.0.1"

    @property
    @override
    def main_port(self) -> int:
        return self._placed.port

    @staticmethod
    @override
    def detect() -> bool:
        return False  # it is chosen, with what is known

    @override
    def world_size(self) -> int:
        return self._placed.world_size

    @override
    def set_world_size(self, size: int) -> None:
        """It is the launcher's."""

    @override
    def global_rank(self) -> int:
        return self._placed.rank

    @override
    def set_global_rank(self, rank: int) -> None:
        """It is the launcher's."""

    @override
    def local_rank(self) -> int:
        return self._placed.local_rank

    @override
    def node_rank(self) -> int:
        return self._placed.node

    @override
    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """The flags have been made to agree with the launcher."""
