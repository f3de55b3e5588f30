"""Several processes: Lightning's DDP, with every global batch split once and weighted right.

What differs from Lightning's: `batch_size` is that of the global batch; no sample is dropped or
repeated; gradients and logged values are those of the global batch, also where the ranks' shards
differ in size. A training step costs no collective more than Lightning's.
"""

import sys
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.types import ReduceOp
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.strategies import DDPStrategy as LightningDDPStrategy
from lightning.pytorch.trainer import Trainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from typing_extensions import override

from lightning_app.strategies.global_logs import GlobalLogs
from lightning_app.strategies.loader import ShardedLoader, shard_loader, step_over_iterator
from lightning_app.strategies.local_sum import LocalSum
from lightning_app.strategies.sharding import Shard, shard_sizes
from lightning_app.strategies.transfer import DirectTransfer


class DDPStrategy(DirectTransfer, LightningDDPStrategy):
    """Trains in one process per device; each rank gets its shard of every global batch."""

    strategy_name = "ddp"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrived: dict[ShardedLoader, Shard] = {}  # since the last step, from each loader
        self._in_step = False
        self._weight = 1.0  # of the last training step; while another kind of step runs, its own
        self._logs = GlobalLogs()
        self._local_sum: LocalSum | None = None

    @override
    def setup(self, trainer: Trainer) -> None:
        if self._layer_sync is not None and self.root_device.type == "cpu":
            raise MisconfigurationException(
                "--sync_batchnorm needs GPUs: torch's SyncBatchNorm does not run on a CPU; "
                "leave it out, or train with `--devices 1`"
            )
        if self.world_size > 1 and (step := step_over_iterator(trainer)):
            raise MisconfigurationException(
                f"{step} takes the loader's iterator, so nothing tells which batch its loss is of, "
                f"to weigh it over {self.world_size} processes: take a batch, or use one device"
            )
        if self.world_size > 1 and trainer._val_check_time_interval is not None:  # type: ignore[attr-defined]
            raise MisconfigurationException(
                f"--val_check_interval by time: the clocks of {self.world_size} processes differ, "
                "so they would validate at different steps; give a number of batches"
            )
        super().setup(trainer)
        if (
            isinstance(self.model, DistributedDataParallel)
            and self.root_device.type == "cpu"
            and self.num_nodes == 1 < self.world_size
            and self._ddp_comm_hook is None
        ):
            self._local_sum = LocalSum()
            self.model.register_comm_hook(dist.group.WORLD, self._local_sum.hook)

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        # Before it, the weights are still float32, and the checkpoint's would be rounded.
        return isinstance(self.precision_plugin, DoublePrecision)

    @override
    def process_dataloader(self, dataloader: object) -> object:
        return shard_loader(
            dataloader, self.global_rank, self.world_size, self._arrived.__setitem__
        )

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._run("training_step", super().training_step, args, kwargs)

    @override
    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._run("validation_step", super().validation_step, args, kwargs)

    @override
    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._run("test_step", super().test_step, args, kwargs)

    def _run(
        self, hook: str, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self._arrived:
            if self.world_size > 1:
                raise MisconfigurationException(
                    f"{hook} ran again on the same batch, as for LBFGS, which goes by a loss that "
                    f"differs on {self.world_size} processes: use `--strategy dp` or one device"
                )
            return step(*args, **kwargs)
        shard = _common_shard(self._arrived.values(), self.world_size)
        self._arrived.clear()
        assert self.lightning_module is not None
        trainer = self.lightning_module.trainer
        previous, self._weight = self._weight, shard.loss_weight(self.world_size)
        self._in_step = True
        try:
            self._logs.before_step(trainer, hook, shard)
            output = step(*args, **kwargs)
            self._logs.after_step(trainer, hook, shard)
            return output
        finally:
            self._in_step = False
            if hook != "training_step":
                self._weight = previous

    @override
    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        return super().backward(self.weigh(closure_loss), optimizer, *args, **kwargs)

    def weigh(self, loss: Tensor) -> Tensor:
        """A rank's mean loss, such that the mean of the ranks' gradients is the global batch's."""
        return loss if self._weight == 1.0 else loss * self._weight

    def mean_over_batch(self, value: Tensor) -> Tensor:
        """Over the last training step's global batch, of what is a mean over each rank's shard."""
        # A mean over no samples is NaN, which no weight takes out of a sum.
        weighted = value * self._weight if self._weight else torch.zeros_like(value)
        return self._reduce(weighted, None, "mean")

    @override
    def reduce(
        self, tensor: Any, group: Any = None, reduce_op: ReduceOp | str | None = "mean"
    ) -> Any:
        """As in Lightning, but within a step a mean over ranks is that of the global batch."""
        if self._in_step and reduce_op in ("mean", "avg") and isinstance(tensor, Tensor):
            return self.mean_over_batch(tensor)
        if not isinstance(tensor, Tensor):
            return tensor
        return self._reduce(tensor, group, reduce_op)

    def _reduce(self, tensor: Tensor, group: Any, reduce_op: ReduceOp | str | None) -> Tensor:
        # NCCL takes none from a CPU, where a model may have what it logs.
        reduced: Tensor = super().reduce(tensor.to(self.root_device), group, reduce_op)
        return reduced.to(tensor.device)

    @override
    def teardown(self) -> None:
        super().teardown()
        if self._local_sum is not None:
            self._local_sum.close()
            self._local_sum = None
        if self._start_method != "popen" and dist.is_initialized():
            # A spawned process ends here; with the group alive, its threads may abort it.
            dist.destroy_process_group()

    @override
    def _get_process_group_backend(self) -> str:
        if sys.platform == "win32" and self._process_group_backend is None:
            return "gloo"  # Windows has no NCCL
        return super()._get_process_group_backend()


def _common_shard(shards: Collection[Shard], world_size: int) -> Shard:
    """The shard that weighs a step's loss, where several loaders may have given it a batch."""
    first, *others = shards
    for other in others:
        # Of all ranks, so that all of them refuse the same step.
        parts = [shard_sizes(shard.global_size, world_size) for shard in (first, other)]
        if any(a * other.global_size != b * first.global_size for a, b in zip(*parts, strict=True)):
            sizes = " and ".join(" + ".join(map(str, part)) for part in parts)
            raise MisconfigurationException(
                f"this step's loaders gave the ranks different parts of their batches ({sizes}), "
                "so the loss has no one weight: use batch sizes and lengths that divide alike"
            )
    return first
