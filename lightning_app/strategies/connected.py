"""Several processes: how they start, find each other, and end."""

import sys
from contextlib import nullcontext

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy as LightningDDPStrategy
from typing_extensions import override

from lightning_app import inside
from lightning_app.processes.rendezvous import meet
from lightning_app.strategies.global_batch import GlobalBatch
from lightning_app.strategies.loopback import on_loopback


class ConnectedProcesses(GlobalBatch, LightningDDPStrategy):
    """A process per device, in one process group."""

    strategy_name = "ddp"

    @override
    def setup_distributed(self) -> None:
        if self.lightning_module is not None:  # whose loaders this strategy splits
            inside.leave_samplers_alone(self.lightning_module.trainer)
        self.set_world_ranks()
        assert self.cluster_environment is not None
        is_alone = self.num_nodes == 1
        with on_loopback(self.cluster_environment, self.local_rank) if is_alone else nullcontext():
            if not dist.is_initialized():
                inside.connect(self, meet(self.cluster_environment))
        super().setup_distributed()

    @override
    def teardown(self) -> None:
        super().teardown()
        if self._start_method != "popen" and dist.is_initialized():
            # A spawned process ends here; with the group alive, its threads may abort it.
            dist.destroy_process_group()

    @override
    def _get_process_group_backend(self) -> str:
        if sys.platform == "win32" and self._process_group_backend is None:
            return "gloo"  # Windows has no NCCL
        return super()._get_process_group_backend()
