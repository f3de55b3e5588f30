"""The arithmetic of V data-parallel ranks, on any number of devices up to V: bit for bit the same.

Every global batch is split into V parts, whatever the devices. A process runs its parts one after
the other within one step, each with random streams and buffers of its own, and their gradients,
losses and logged values are added up in one order. Hooks, `batch_idx`, `global_step` and positions
in checkpoints are those of one global batch.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.types import ReduceOp
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_app import inside
from lightning_app.strategies.batch.loss_weight import of_other_loaders
from lightning_app.strategies.checks.alone import Alone
from lightning_app.strategies.checks.batchnorm import refused_by_batchnorm
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.ddp.meeting import MeetingRanks
from lightning_app.strategies.ddp.trained import check_ranks_agree
from lightning_app.strategies.global_batch import GlobalBatch
from lightning_app.strategies.loaders.loader import (
    ShardedLoader,
    check_not_split,
    view_of,
    why_not_split,
)
from lightning_app.strategies.logs.idle_metrics import align_states
from lightning_app.strategies.logs.own_values import epoch_end_values, tell_if_ranks_differ
from lightning_app.strategies.single_device import SingleDeviceStrategy
from lightning_app.strategies.virtual import refused
from lightning_app.strategies.virtual.determinism import fixed_kernels
from lightning_app.strategies.virtual.exchange import Exchange
from lightning_app.strategies.virtual.passes import (
    Parts,
    Split,
    VirtualPass,
    VirtualShards,
    ranges_of,
)
from lightning_app.strategies.virtual.runner import Asked, Runner
from lightning_app.strategies.virtual.streams import given_back, seed_of, seed_streams


class VirtualRanks(GlobalBatch):
    """Runs each step as V ranks would.

    Args:
        virtual_ranks: V.

    Attributes:
        virtual_ranks: The same.
    """

    def __init__(self, *args: Any, virtual_ranks: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.virtual_ranks = virtual_ranks
        self._layer_sync: object = None  # the Trainer sets it under `sync_batchnorm`
        self._tell = TellOnce()
        self._alone = Alone(refused.collective, has_parts=True)
        self._for_the_run = ExitStack()
        self._have_unequal_parts: set[bool] = set()  # training, and evaluation

    @override
    def setup(self, trainer: Trainer) -> None:
        world_size = int(self.world_size)  # type: ignore[attr-defined]
        syncs_batchnorm = self._layer_sync is not None
        refused.check_run(trainer, self.virtual_ranks, world_size, syncs_batchnorm)
        self._for_the_run.enter_context(fixed_kernels(self.root_device))
        self._for_the_run.enter_context(self._alone.guards(trainer.lightning_module))
        super().setup(trainer)
        self._runner = Runner(trainer, self._tell, self._alone, self.virtual_ranks)
        if names := ", ".join(refused.hooks_of_batches(trainer)):
            self._tell(
                f"--virtual_ranks: {names}: a batch is the list of this device's parts of it"
            )
        inside.before_epoch_values(trainer, self._epoch_ended)
        inside.after_epoch_hooks(trainer, self._epoch_hooks_ended)

    def _epoch_ended(self) -> None:
        model = self._trainer.lightning_module
        if self._runner.exchange.world_size > 1:
            if self._trainer.training:
                check_ranks_agree(model)
            are_uneven = self._trainer.training in self._have_unequal_parts
            align_states(model, are_uneven, self._tell)
        self._runner.settle()

    def _epoch_hooks_ended(self) -> None:
        """Tell of values that an epoch's end hooks have logged of what this device has seen."""
        own = epoch_end_values(self._trainer)
        if self._runner.exchange.world_size > 1:
            tell_if_ranks_differ(own, self._tell)
        elif own and (grown := ", ".join(self._runner.grown())):
            self._tell(
                f"steps append to {grown}, and each device has what its own virtual ranks append: "
                "what is computed of it at an epoch's end depends on the number of devices, unless "
                "it is gathered by `self.all_gather`; or log in the step"
            )

    @override
    def teardown(self) -> None:
        with self._for_the_run:
            if self._lightning_module is not None:
                inside.leave_epochs(self._trainer)
            super().teardown()

    @property
    def ranges(self) -> list[range]:
        """The virtual ranks that each process runs, in rank order."""
        return ranges_of(self.virtual_ranks, int(self.world_size))  # type: ignore[attr-defined]

    @override
    def process_dataloader(self, dataloader: object) -> object:
        check_not_split(dataloader)
        if isinstance(dataloader, ShardedLoader):
            dataloader = dataloader.sharding.loader
        if why_not := why_not_split(dataloader):
            raise MisconfigurationException(
                f"{why_not}, so it cannot be split over {self.virtual_ranks} virtual ranks: use a "
                "plain DataLoader of a map-style data set"
            )
        assert isinstance(dataloader, DataLoader)
        ranks = int(self.global_rank), int(self.world_size)  # type: ignore[attr-defined]
        shards = VirtualShards(
            dataloader, *ranks, self._run_seed(), self._trainer, self.virtual_ranks
        )
        return view_of(shards)

    @override
    def on_train_start(self) -> None:
        refused.check_loaders(self._trainer)
        super().on_train_start()
        inside.set_up_validation(self._trainer)

    @override
    def on_validation_start(self) -> None:
        refused.check_loaders(self._trainer)
        super().on_validation_start()

    @override
    def on_test_start(self) -> None:
        refused.check_loaders(self._trainer)
        super().on_test_start()

    @override
    def batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        if not isinstance(batch, Parts):
            return super().batch_to_device(batch, device, dataloader_idx)
        if self._hooks_are_idle():
            transfer = super().batch_to_device  # `super()` is not known in a generator
            return Parts(transfer(own, device, dataloader_idx) for own in batch)
        parts, its_pass = Parts(), self._its_pass(batch)
        first = self._split(its_pass).own(self._runner.exchange.rank).start
        with given_back(self.root_device), self._alone.in_step():
            for part, own in enumerate(batch, first):
                self._begin_streams(its_pass, "transfer", part)
                parts.append(super().batch_to_device(own, device, dataloader_idx))
        return parts

    def _its_pass(self, batch: Any) -> VirtualPass:
        """The pass that has given the running step's batch."""
        if not isinstance(batch, Parts):
            raise of_other_loaders()
        [its_pass] = [p for p in self._passes() if p.shard is not None]
        assert isinstance(its_pass, VirtualPass)
        return its_pass

    def _split(self, its_pass: VirtualPass) -> Split:
        assert its_pass.shard is not None
        return its_pass.shards.split(its_pass.shard.global_size)

    def _begin_streams(self, its_pass: VirtualPass, purpose: str, part: int) -> None:
        assert its_pass.shard is not None
        place = its_pass.epoch, its_pass.note[1], its_pass.shard.number
        seed_streams(seed_of(its_pass.shards.seed, purpose, *place, part), self.root_device)

    @override
    def _run(
        self, hook: str, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        batch, *rest = args
        its_pass = self._its_pass(batch)
        split = self._split(its_pass)
        if split.size % self.virtual_ranks or self.virtual_ranks % len(split.ranges):
            self._have_unequal_parts.add(self._trainer.training)
        if hook == "training_step":  # the loss is that of the batch, and counts once
            self.step_weight = split.size if self._runner.exchange.rank == 0 else 0

        def step_of_part(part: Any) -> Any:
            with refused_by_batchnorm(split.size, f"{self.virtual_ranks} virtual ranks"):
                return step(part, *rest, **kwargs)

        batches = dict(zip(split.own(self._runner.exchange.rank), batch, strict=True))
        begin_streams = partial(self._begin_streams, its_pass, hook)
        return self._runner.run(Asked(hook, step_of_part, split, batches, begin_streams))

    @override
    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        # The parts have had their backward passes: here are the hooks around that of the batch.
        model = self._trainer.lightning_module
        self.pre_backward(closure_loss)
        closure_loss = self.precision_plugin.pre_backward(closure_loss, model)
        self._runner.place_gradients()
        closure_loss = self.precision_plugin.post_backward(closure_loss, model)
        self.post_backward(closure_loss)
        return closure_loss

    def mean_over_batch(self, value: Tensor) -> Tensor:
        """Of a loss that a step has returned: that of the whole batch already."""
        return value

    @override
    def reduce(
        self, tensor: Any, group: Any = None, reduce_op: ReduceOp | str | None = "mean"
    ) -> Any:
        if self._alone.is_in_step:  # `self.log(…, sync_dist=True)`: put together after the step
            return tensor
        return super().reduce(tensor, group, reduce_op)  # type: ignore[safe-super]

    @override
    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        self._alone.check("all_gather")
        return super().all_gather(tensor, group, sync_grads)  # type: ignore[safe-super]

    @override
    def barrier(self, name: str | None = None) -> None:
        self._alone.check("barrier")
        super().barrier(name)  # type: ignore[safe-super]


class VirtualSingleDeviceStrategy(VirtualRanks, SingleDeviceStrategy):
    """All virtual ranks on one device."""


class VirtualDDPStrategy(VirtualRanks, MeetingRanks):  # type: ignore[misc]
    """Some virtual ranks in each of several processes, with a device each."""

    @override
    def configure_ddp(self) -> None:
        """There is no need to wrap the model: its gradients are summed here."""
        model = self._trainer.lightning_module
        exchange = Exchange(self.root_device)
        for tensor in (*model.parameters(), *model.buffers()):
            exchange.broadcast([tensor])
