"""ddp: how its ranks meet, for how long they wait for each other, and who is told to be missing."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import _set_pg_timeout
from typing_extensions import override

from lightning_app import inside
from lightning_app.errors import UsageError, first_line
from lightning_app.limits import CONNECT_S, CONNECT_S_A_RANK, STEP_S, WAIT_S
from lightning_app.processes import liveness
from lightning_app.processes.collectives import all_objects
from lightning_app.processes.rendezvous import Meeting, meeting, names_first_rank
from lightning_app.processes.start_check import named
from lightning_app.strategies.ddp.loopback import on_loopback
from lightning_app.strategies.loaders.randomness import global_states, set_global_states


class MeetingRanks(DDPStrategy):
    """Lightning's DDP, whose ranks wait for each other in limited time.

    Attributes:
        start_timeout_s: Seconds to wait for all ranks at the start.
        step_timeout_s: Seconds to wait for a rank once training goes on; `None` for what the
            strategy was made with, or else a usual time.
    """

    strategy_name = "ddp"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_timeout_s = WAIT_S
        self.step_timeout_s: float | None = None
        self._liveness: liveness.Liveness | None = None
        self._has_stepped = self._has_limit = False

    @override
    def setup_distributed(self) -> None:
        if self.lightning_module is not None:  # whose loaders this strategy splits
            inside.leave_samplers_alone(self.lightning_module.trainer)
        self.set_world_ranks()
        assert self.cluster_environment is not None
        is_alone = self.num_nodes == 1
        with on_loopback(self.cluster_environment, self.local_rank) if is_alone else nullcontext():
            if dist.is_initialized():  # by an earlier run of this process
                self._liveness = liveness.go_on()
            else:
                met = meeting(self.cluster_environment, self.start_timeout_s)
                with names_first_rank(met.of_ranks):
                    self._connect_all(met)
        # Lightning seeds anew here. A split of the data in `setup`, say, or layers that
        # `configure_model` makes, would be others than on one device: all go on as rank 0 would.
        states = global_states()
        super().setup_distributed()
        set_global_states(self.broadcast(states))

    def _connect_all(self, met: Meeting) -> None:
        """Make the process group of those that have met.

        Raises:
            UsageError: One of them does not come, or they do not reach each other.
        """
        met.wait_for_all(self.global_rank, self.start_timeout_s)
        is_gloo = self._get_process_group_backend() == "gloo"
        limit_s = self.start_timeout_s
        if is_gloo:  # each asks the store for the address of each
            limit_s = min(CONNECT_S + CONNECT_S_A_RANK * self.world_size, limit_s)
        try:
            inside.connect(self, met.store, limit_s)
        except RuntimeError as error:
            # NCCL has others, of its devices; and it may be the store that has ended.
            if not is_gloo or isinstance(error, dist.DistNetworkError):
                raise
            why = re.sub(r"\[/\S+\] ", "", first_line(error))  # without places in gloo's sources
            raise UsageError(
                f"{named(met.of_ranks, self.global_rank)} does not reach all others: {why}; a "
                "host's name has to stand for an address that they reach, or GLOO_SOCKET_IFNAME "
                "has to name the network to use"
            ) from None
        self._liveness = liveness.begin(met.store, self.global_rank, met.of_ranks)

    @property
    def step_timeout(self) -> timedelta:
        """How long a rank is waited for in training."""
        if self.step_timeout_s is not None:
            return timedelta(seconds=self.step_timeout_s)
        usual = timedelta(seconds=STEP_S)
        return usual if self._timeout in (None, default_pg_timeout) else self._timeout

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self._liveness is None:
            return
        if self._has_stepped and not self._has_limit:
            # From here on a rank that does not come is given up soon; the first step may take long.
            self._has_limit = True
            _set_pg_timeout(self.step_timeout)
            liveness.limit(self.step_timeout.total_seconds())
        self._has_stepped = True
        if self.lightning_module is not None:  # the others see how far this rank is
            self._liveness.step = self.lightning_module.trainer.global_step

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        def load() -> Any:
            return super(MeetingRanks, self).load_checkpoint(checkpoint_path, weights_only)

        if self.num_nodes == 1 or not inside.is_local_file(checkpoint_path):
            return load()
        return load_on_all(Path(checkpoint_path), load)

    @override
    def teardown(self) -> None:
        super().teardown()
        if self._liveness is not None:
            self._liveness.end()
            self._liveness = None
        self._has_stepped = self._has_limit = False
        if self._start_method != "popen" and dist.is_initialized():
            # A spawned process ends here; with the group alive, its threads may abort it.
            dist.destroy_process_group()

    @override
    def _get_process_group_backend(self) -> str:
        if sys.platform == "win32" and self._process_group_backend is None:
            return "gloo"  # Windows has no NCCL
        return super()._get_process_group_backend()


def load_on_all(path: Path, load: Callable[[], Any]) -> Any:
    """Load a file on every rank, or send it from one that has it, where hosts share no folder.

    Args:
        path: Of the file. Hosts may have older ones there: the newest counts.
        load: Reads it.

    Returns:
        What is in it.
    """
    states = all_objects(_state(path))
    newest = max(states, key=lambda state: state or (0, 0))
    if all(state == newest for state in states):
        return load()
    source, rank = states.index(newest), dist.get_rank()
    sent: list[Any] = [None, None]
    if rank == source:
        try:
            sent[0] = load()
        except Exception as error:  # the others wait for it
            sent[1] = error
    dist.broadcast_object_list(sent, src=source)
    if sent[1] is not None:
        raise sent[1]
    return sent[0]


def _state(path: Path) -> tuple[int, int] | None:
    """When a file was changed, and its size; `None` if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
