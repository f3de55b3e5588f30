"""What waits for other processes in a step, refused where they are not there.

Virtual ranks run one after the other. Where processes run different numbers of parts, one of them
would wait for ever; where one process runs them all, it would get the value of the parts so far.
Under `ddp`, a rank without samples has no part in an evaluation step.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch.distributed import _functional_collectives as functional
from torch.distributed import distributed_c10d as c10d
from torchmetrics import Metric, MetricCollection

# The methods of a process group, and the functions of `torch.distributed` that call them.
COLLECTIVES = {
    "_allgather_base": "all_gather_into_tensor",
    "_reduce_scatter_base": "reduce_scatter_tensor",
    "all_gather_single": "all_gather_into_tensor",
    "all_gather_single_coalesced": "all_gather_into_tensor",
    "all_to_all_single": "all_to_all_single",
    "allgather": "all_gather",
    "allgather_coalesced": "all_gather_coalesced",
    "allgather_into_tensor_coalesced": "all_gather_into_tensor",
    "allreduce": "all_reduce",
    "allreduce_coalesced": "all_reduce_coalesced",
    "alltoall": "all_to_all",
    "alltoall_base": "all_to_all_single",
    "barrier": "barrier",
    "broadcast": "broadcast",
    "gather": "gather",
    "monitored_barrier": "monitored_barrier",
    "recv": "recv",
    "recv_anysource": "recv",
    "reduce": "reduce",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_single": "reduce_scatter_tensor",
    "reduce_scatter_single_coalesced": "reduce_scatter_tensor",
    "reduce_scatter_tensor_coalesced": "reduce_scatter_tensor",
    "scatter": "scatter",
    "send": "send",
}
# What each functional collective asks for its group, and a DTensor by them; by torch's version.
FINDS_GROUP = {"_resolve_group", "_resolve_group_name"}
NAMES_GROUP = "_process_group_name"  # what asks for a new group, as `new_group`, `split_group`


class Alone:
    """Refuses what waits for others, within `in_step`.

    Args:
        refusal: Makes an error of what would wait, in words.
        has_parts: Whether a process runs parts of a step, so that even its own value of one of the
            model's metrics is not that of any rank.

    Attributes:
        is_in_step: Whether a step runs. One for all threads: a GPU's backward pass has its own.
    """

    def __init__(self, refusal: Callable[[str], Exception], has_parts: bool) -> None:
        self._refusal, self._has_parts = refusal, has_parts
        self.is_in_step = False

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Mark the time in which a step runs."""
        self.is_in_step = True
        try:
            yield
        finally:
            self.is_in_step = False

    def check(self, what: str) -> None:
        """Refuse something that waits for others, in a step.

        Raises:
            Exception: The refusal.
        """
        if self.is_in_step:
            raise self._refusal(what)

    @contextmanager
    def guards(self, model: LightningModule) -> Iterator[None]:
        """Have torch's collectives checked, and what torchmetrics computes over all ranks.

        What is changed, in the meantime, is what functions look up: they have any names themselves.

        Args:
            model: The user's, to name its metrics.
        """
        group: Any = dist.ProcessGroup if dist.is_available() else object
        with ExitStack() as undo:
            for method, function in COLLECTIVES.items():
                if method in vars(group):
                    undo.enter_context(before(group, method, self._check_collective(function)))
            check = self._check_collective("a functional collective (as of a DTensor)")
            for function in FINDS_GROUP & vars(functional).keys():
                undo.enter_context(before(functional, function, check))
            check = self._check_collective("a new process group")
            undo.enter_context(before(c10d, NAMES_GROUP, check))
            check_metric = partial(self._check_metric, model)
            undo.enter_context(before(Metric, "sync_context", check_metric))
            yield

    def _check_collective(self, function: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.check(function)

    def _check_metric(
        self,
        model: LightningModule,
        metric: Metric,
        sync_function: Any = None,
        group: Any = None,
        should_sync: bool = True,
        should_unsync: bool = True,
        *others: Any,
        **more: Any,
    ) -> None:
        name = _name_in(model, metric)
        if not should_unsync:  # `forward`, of this part alone
            if should_sync:
                self.check(f"{name or type(metric).__name__} with dist_sync_on_step=True")
            return
        is_the_models = self._has_parts and name is not None
        if is_the_models or should_sync:  # else a step has made it, of this part alone
            self.check(f"{name or type(metric).__name__}.compute()")


def _name_in(model: LightningModule, metric: Metric) -> str | None:
    """The model's attribute that a metric is, or is within; `None` if there is none."""
    for path, module in model.named_modules():
        is_metric = isinstance(module, (Metric, MetricCollection))
        if is_metric and any(part is metric for part in module.modules()):
            return str(path)
    return None


@contextmanager
def before(owner: Any, method: str, act: Callable[..., None]) -> Iterator[None]:
    """Have something called before each call of a class's method, with the same arguments."""
    own, usual = vars(owner)[method], getattr(owner, method)

    @wraps(usual)
    def checked(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return usual(*args, **kwargs)

    setattr(owner, method, checked)
    try:
        yield
    finally:
        setattr(owner, method, own)
