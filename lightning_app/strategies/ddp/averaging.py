"""ddp: the gradients that are averaged, of what is trained now, and how they are on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from lightning_app.hooks import has_hook
from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.ddp.local_sum import LocalSum
from lightning_app.strategies.ddp.meeting import MeetingRanks
from lightning_app.strategies.ddp.trained import TrainedParameters, check_no_hook


class AveragesGradients(MeetingRanks):
    """Lightning's DDP, made anew where other parameters are trained than before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trained: TrainedParameters | None = None
        self._local_sum: LocalSum | None = None
        self._averages_each = False  # batch whose gradients are accumulated

    @override
    def configure_ddp(self) -> None:
        module = self.lightning_module
        if module is not None and not module.automatic_optimization:
            # A step with several optimizers leaves out the parameters of the others.
            self._ddp_kwargs.setdefault("find_unused_parameters", True)
        super().configure_ddp()

    @override
    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Leave gradients that are accumulated to each rank, unless a hook sees them.

        Averaged after each batch they add up to the same: what came before is alike on all ranks.
        """
        with nullcontext() if self._averages_each else super().block_backward_sync():
            yield

    def _look_for_hooks(self) -> None:
        """Have all ranks average each batch if one has a hook that sees gradients; all call it."""
        module = self.lightning_module
        assert module is not None
        owners = (module, *module.trainer.callbacks)  # type: ignore[attr-defined]
        sees = any(has_hook(owner, "on_after_backward") for owner in owners)
        self._averages_each = any(all_objects(sees or has_hook(module, "backward")))

    def _connect(self) -> None:
        """Have the gradients of processes on one machine's CPU summed over local sockets."""
        if (
            isinstance(self.model, DistributedDataParallel)
            and self.root_device.type == "cpu"
            and self.num_nodes == 1
            and self._ddp_comm_hook is None
            and not self.model._comm_hooks  # none of the user's own
        ):
            if self._local_sum is None:
                self._local_sum = LocalSum(self.step_timeout)
            self.model.register_comm_hook(dist.group.WORLD, self._local_sum.hook)

    def _begin_to_follow(self, module: LightningModule) -> None:
        finds_unused = bool(self._ddp_kwargs.get("find_unused_parameters"))
        self._trained = TrainedParameters(module, finds_unused)

    def _follow_parameters(self, look_for_new: bool) -> None:
        """Average the gradients of what is trained now: layers may be unfrozen in mid-run."""
        assert self.lightning_module is not None
        if self._trained is None:
            return
        if self._trained.have_changed(self._may_be_trained() if look_for_new else None):
            if self._local_sum is None:
                check_no_hook(self.model)
            self.model = self.lightning_module
            with self._without_others():
                self.configure_ddp()
            self._connect()

    @contextmanager
    def _without_others(self) -> Iterator[None]:
        """Have DDP made without the parameters that a callback trains, which looks at them once."""
        assert self.lightning_module is not None
        assert self._trained is not None
        averaged = {*self._trained.all}
        others = [
            parameter
            for parameter in self.lightning_module.parameters()
            if parameter.requires_grad and parameter not in averaged
        ]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _may_be_trained(self) -> set[Parameter]:
        """The parameters that a step's backward pass may give gradients, for the Trainer to use."""
        assert self.lightning_module is not None
        if not self.lightning_module.automatic_optimization:  # it may have optimizers of its own
            return set(self.lightning_module.parameters())
        groups = (group for optimizer in self.optimizers for group in optimizer.param_groups)
        return {parameter for group in groups for parameter in group["params"]}

    def _share_buffers(self) -> None:
        """Have those of the first rank on all, as DDP has them in a model's next forward."""
        model = self.model
        if isinstance(model, DistributedDataParallel) and model.will_sync_module_buffers():  # type: ignore[no-untyped-call]
            # Here and not in the first step, in which a rank without samples has no part.
            model._sync_buffers()  # type: ignore[no-untyped-call]
            model.require_forward_param_sync = False

    @override
    def teardown(self) -> None:
        super().teardown()
        if self._local_sum is not None:
            self._local_sum.close()
            self._local_sum = None
