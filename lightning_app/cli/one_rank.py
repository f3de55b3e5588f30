"""One step of one rank of a large run, in this process alone.

It runs over torch's fake process group, whose collectives do nothing.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # registers the backend "fake"
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from lightning_app.processes.launched import LaunchedEnvironment
from lightning_app.processes.placement import TORCHRUN, Placement
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.ddp.strategy import DDPStrategy

SILENT: dict[str, Any] = dict.fromkeys(  # a Trainer that leaves nothing behind
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


class AloneStrategy(DDPStrategy):
    """Our `ddp`, of which no other rank is there."""

    @override
    def setup_distributed(self) -> None:
        dist.init_process_group(
            "fake",
            rank=self.global_rank,
            world_size=self.world_size,
            store=torch.testing._internal.distributed.fake_pg.FakeStore(),
        )

    @override
    def configure_ddp(self) -> None:
        super().configure_ddp()
        self.model.register_comm_hook(None, _keep)  # type: ignore[union-attr, operator]

    @override
    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj  # over "fake", a later rank reads a length that nobody has sent

    @override
    def barrier(self, *args: Any, **kwargs: Any) -> None: ...


def _keep(
    state: object,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


class _Watch(Callback):
    """Notes the rank's part of the batch."""

    def __init__(self, strategy: AloneStrategy) -> None:
        self._strategy = strategy
        self.shard: Shard | None = None

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.shard = self._strategy._current_shards()[0]


def step_of_rank(
    model: LightningModule,
    data: LightningDataModule | None,
    rank: int,
    per_node: int,
    num_nodes: int,
) -> str:
    """Run one training step, and tell what the rank got.

    Args:
        model: As it begins.
        data: `None` where the model has loaders.
        rank: From 0.
        per_node: Ranks on each host.
        num_nodes: Hosts.
    """
    world_size = per_node * num_nodes
    placed = Placement(
        TORCHRUN, rank, world_size, rank % per_node, per_node, rank // per_node, num_nodes, "", 0
    )
    own_rank = getattr(rank_zero_only, "rank", 0)  # of this process, which lends itself
    strategy = AloneStrategy(cluster_environment=LaunchedEnvironment(placed))
    watch = _Watch(strategy)
    trainer = Trainer(
        accelerator="cpu",
        devices=per_node,
        num_nodes=num_nodes,
        strategy=strategy,
        max_steps=1,
        limit_val_batches=0,
        callbacks=[watch],
        use_distributed_sampler=False,
        **SILENT,
    )
    try:
        trainer.fit(model, data)
    finally:
        rank_zero_only.rank = own_rank  # type: ignore[attr-defined]
        if dist.is_initialized():
            dist.destroy_process_group()
    shard = watch.shard
    assert shard is not None
    got = "no sample" if not shard.size else f"samples {shard.start} to {shard.stop - 1}"
    return (
        f"rank {rank} of {world_size}: {got} of a global batch of {shard.global_size}; "
        f"{trainer.global_step} step done"
    )
