"""Several processes: Lightning's DDP, with every global batch split once and weighted right.

What differs from Lightning's: `batch_size` is that of the global batch; no sample is dropped or
repeated; gradients and logged values are those of the global batch, also where the ranks' shards
differ in size. A training step costs no collective more than Lightning's, but for the first ten, in
which the ranks are compared (of each pass, where a `collate_fn` may pad), log steps, and where the
model logs, tells what its loss is a mean over, or gathers by itself in a batch of unequal parts.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.types import ReduceOp
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_app import inside
from lightning_app.strategies.batch.loss_weight import LossWeight, common_shard, mean_over
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.batchnorm import refused_by_batchnorm
from lightning_app.strategies.checks.first_steps import FirstSteps
from lightning_app.strategies.checks.refused import (
    alike_where_gathered,
    check_new,
    check_optimizers,
    check_run,
    check_shapes,
    check_sync_batchnorm,
    refused_by_gradients,
    refused_to_wait,
)
from lightning_app.strategies.ddp.averaging import AveragesGradients
from lightning_app.strategies.ddp.spare_step import nothing_stays
from lightning_app.strategies.ddp.trained import check_ranks_agree, trained_apart
from lightning_app.strategies.global_batch import GlobalBatch
from lightning_app.strategies.logs.global_logs import GlobalLogs


class DDPStrategy(GlobalBatch, AveragesGradients):
    """Trains in one process per device; each rank gets its shard of every global batch.

    A rank's loss counts as its samples do in the batch. A module whose loss is a mean over
    something else, say over tokens, tells over how many: `loss_is_mean_over(batch)`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shards: list[Shard] = []  # of the last step
        self._in_step = self._is_second = False
        self._weight: LossWeight | None = None
        self._logs: GlobalLogs | None = None
        self._is_connected = False
        self._first_steps: FirstSteps | None = None

    @override
    def setup(self, trainer: Trainer) -> None:
        if self.world_size > 1:
            no_batchnorm = self._layer_sync is not None and self.root_device.type == "cpu"
            check_run(trainer, self.world_size, no_batchnorm)
        if self._weight is not None:
            self._weight.stop_silence()  # of a fit that was broken off
        super().setup(trainer)
        if self.world_size > 1:
            check_optimizers(self.optimizers, self.world_size)
            model = trainer.lightning_module
            self._begin_to_follow(model)
            self._weight = LossWeight(self.global_rank, self.world_size, self._sum)
            self._logs = GlobalLogs(trainer, self._sum)
            self._first_steps = FirstSteps(model, self.root_device, self._tell)
            inside.before_epoch_values(trainer, self._epoch_ended)
            inside.after_epoch_hooks(trainer, self._logs.check_epoch_end)
            inside.around_evaluated_batches(trainer, self._alone)

    @override
    def on_train_start(self) -> None:
        super().on_train_start()
        if self.world_size > 1:
            inside.set_up_validation(self._trainer)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        is_second = self._has_stepped and not self._has_limit
        super().on_train_batch_start(batch, batch_idx)
        assert self.lightning_module is not None
        self._is_second = is_second and self._logs is not None
        if self._logs is not None and (batch_idx == 0 or not self._is_connected):
            self._look_for_hooks()
        if not self._is_connected and self._logs is not None:
            self._is_connected = True  # not before: a hook may have registered its own
            self._connect()
            if self._first_steps is not None:
                self._first_steps.look_at_code(self._trainer)
        self._follow_parameters(look_for_new=batch_idx == 0)

    @override
    def on_validation_start(self) -> None:
        super().on_validation_start()
        self._start_evaluation()

    @override
    def on_test_start(self) -> None:
        super().on_test_start()
        self._start_evaluation()

    @override
    def on_predict_start(self) -> None:
        super().on_predict_start()
        self._start_evaluation()

    def _start_evaluation(self) -> None:
        if self._logs is not None:
            self._logs.start_evaluation()
        if self._first_steps is not None:
            self._first_steps.forget_random_states()
            if self._trainer.state.fn != "fit":
                self._first_steps.look_at_code(self._trainer)
        self._share_buffers()

    def _epoch_ended(self) -> None:
        assert self._logs is not None
        self._logs.share_epoch()
        if self._trainer.training:
            self._check_agreement()
            callbacks = self._trainer.callbacks  # type: ignore[attr-defined]
            apart = trained_apart(callbacks, self._trainer.lightning_module)
            if apart and self._first_steps is not None:
                self._first_steps.tell_of_training_apart(apart)

    def _check_agreement(self) -> None:
        # A hook or an averager of the user's may have ranks train apart for some steps.
        if not (self._ddp_comm_hook or self._model_averager):
            averaged = None if self._trained is None else self._trained.all
            parted = check_ranks_agree(self._trainer.lightning_module, averaged)
            if parted and self._first_steps is not None:
                self._first_steps.tell_of_training_apart(parted)

    @override
    def _run(
        self, hook: str, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._logs is None or self._weight is None:
            return super()._run(hook, step, args, kwargs)
        shards = self._current_shards()
        check_new(hook, shards, self._shards, self.world_size)
        self._shards, shard = shards, common_shard(shards, self.world_size)
        previous = self._weight.value
        self._weight.stop_silence()
        if shard.global_size < self.world_size:
            self._check_small_batch(hook, shard)
        self._logs.before_step(hook)
        try:
            size = self._tell_size(self._trainer, args[0], shard) if args else shard.size
            told = mean_over(self.lightning_module, args[0]) if args else None
            self._weight.set(hook, shard, size, told)
            if hook == "training_step":
                self.step_weight = self._weight.value * shard.global_size / self.world_size
            with self._step(hook, shard, args[0] if args else None):
                output = step(*args, **kwargs)
            if self._is_second and hook == "training_step":
                # Early, and not only where an epoch ends; torch has told by now of gradients that
                # have not come.
                self._is_second = False
                self._check_agreement()
            part = self._weight.value / self.world_size
            self._logs.after_step(hook, shard, size, self._full_size(), told, part)
            if not shard.size:
                inside.results(self._trainer).batch_size = 0  # for what later hooks log
            return output
        finally:
            if hook != "training_step":
                self._weight.value = previous

    @contextmanager
    def _step(self, hook: str, shard: Shard, batch: Any) -> Iterator[None]:
        assert self.lightning_module is not None
        first_steps = self._first_steps
        assert first_steps is not None
        is_training = hook == "training_step"
        is_spare = is_training and shard.global_size < self.world_size
        self._in_step = True
        try:
            with (
                refused_by_gradients(),
                refused_by_batchnorm(shard.global_size, f"{self.world_size} processes"),
                first_steps.watch(hook, shard, batch),
                first_steps.watch_spare(shard, self.world_size) if is_spare else nullcontext(),
                self._alike_where_gathered(hook),
                nothing_stays(self.lightning_module) if not shard.size else nullcontext(),
            ):
                yield
        finally:
            self._in_step = False

    @override
    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        self._shards, first_steps = self._current_shards(), self._first_steps
        watched = (
            first_steps.watch("predict_step", self._shards[0]) if first_steps else nullcontext()
        )
        with watched, self._alike_where_gathered("predict_step"):
            return super().predict_step(*args, **kwargs)

    def _alike_where_gathered(self, hook: str) -> AbstractContextManager[None]:
        """Check what a step gathers, if all ranks run it and have unequal parts."""
        uneven = [shard for shard in self._shards if shard.global_size % self.world_size]
        is_run = hook == "training_step" or all(s.global_size >= self.world_size for s in uneven)
        if self._first_steps is None or not uneven or not is_run:
            return nullcontext()
        tell = self._first_steps.tell_of_gathering
        return alike_where_gathered(partial(tell, hook, uneven[0], self.world_size))

    def _alone(self) -> AbstractContextManager[None]:
        """Refuse to wait for ranks that skip a batch, of which they have no sample."""
        sizes = [shard.global_size for shard in self._current_shards()]
        size = min(sizes, default=self.world_size)
        if size < self.world_size and any(p.skips_idle for p in self._passes()):
            return refused_to_wait(self._trainer.lightning_module, size, self.world_size)
        return nullcontext()

    @override
    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        return super().backward(self.weigh(closure_loss), optimizer, *args, **kwargs)

    def weigh(self, loss: Tensor) -> Tensor:
        """A rank's mean loss, such that the mean of the ranks' gradients is the global batch's."""
        if self._weight is None or self._first_steps is None or self._trained is None:
            return loss
        self._trained.check()
        self._first_steps.look_at_loss(loss, self._shards)
        return self._weight.weigh_loss(loss, self._trainer.lightning_module)

    @property
    def is_idle(self) -> bool:
        """Whether this rank's loss counted nothing in the last training step."""
        return self._weight is not None and not self._weight.value

    def mean_over_batch(self, value: Tensor) -> Tensor:
        """Over the last training step's global batch, of what is a mean over each rank's shard."""
        weighed = value if self._weight is None else self._weight.weigh(value)
        return self._reduce(weighed, None, "mean")

    @override
    def reduce(
        self, tensor: Any, group: Any = None, reduce_op: ReduceOp | str | None = "mean"
    ) -> Any:
        """As in Lightning, but within a step a mean over ranks is that of the global batch."""
        if not isinstance(tensor, Tensor):
            return tensor
        if self._in_step and group in (None, dist.group.WORLD):
            if reduce_op in ("mean", "avg"):
                return self.mean_over_batch(tensor)
            if reduce_op in ("sum", ReduceOp.SUM) and not any(s.size for s in self._shards):
                tensor = tensor.new_zeros(tensor.shape)  # of samples that other ranks count
        return self._reduce(tensor, group, reduce_op)

    @override
    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        is_checked = self._in_step or group not in (None, dist.group.WORLD)  # there, or not at all
        if not is_checked:
            check_shapes(tensor)
        gathered = super().all_gather(tensor, group, sync_grads)
        if not is_checked and self._logs is not None:
            self._logs.note_gathered(gathered)
        return gathered

    def _check_small_batch(self, hook: str, shard: Shard) -> None:
        assert self.lightning_module is not None
        if hook == "training_step":
            check_sync_batchnorm(self.lightning_module, shard, self.world_size)
        elif shard.number == 0 and self._first_steps is not None:
            self._first_steps.tell_of_idleness(hook, shard, self.world_size)

    def _sum(self, values: Tensor) -> Tensor:
        """The sum of a CPU tensor `(N,)` over all ranks."""
        if self._local_sum is not None and self._local_sum.is_connected:
            return self._local_sum.sum(values)
        return self._reduce(values, None, "sum")

    def _reduce(self, tensor: Tensor, group: Any, reduce_op: ReduceOp | str | None) -> Tensor:
        # NCCL takes none from a CPU, where a model may have what it logs.
        reduced: Tensor = super().reduce(tensor.to(self.root_device), group, reduce_op)
        return reduced.to(tensor.device)

    @override
    def teardown(self) -> None:
        if self._logs is not None:
            self._logs.tell_of_gathered()
            inside.leave_epochs(self._trainer)
            inside.leave_evaluated_batches(self._trainer)
        super().teardown()
        if self._weight is not None:
            self._weight.stop_silence()
        self._is_connected = False
