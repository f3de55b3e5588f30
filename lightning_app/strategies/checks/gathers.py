"""What a step gathers of all processes, and whether gradients go back to all of them.

`torch.distributed.all_gather` gives values without gradients. A loss of these and of a process's
own has the gradient of its own part alone, which is averaged as that of a mean: it is too small by
the number of processes.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

from lightning_app.strategies.checks.loss_graph import Node, below
from lightning_app.strategies.checks.telling import listed

_JOINS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}  # with one's own part


class Gathers:
    """Follows values of all processes through a step, by what it calls."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Tensor, bool]] = {}  # and whether they are of some with grad
        self._of_all: set[Node] = set()  # gradients go back to all
        self._of_one: set[Node] = set()  # they go back to this process's own part

    def look(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Note what a call has given."""
        name, given = getattr(func, "__name__", ""), [*args, *kwargs.values()]
        if name.startswith("all_gather"):
            outputs, *inputs = given
            self._note([outputs, result], any(t.requires_grad for t in _tensors(inputs)))
        elif not self._values:
            return
        elif name == "__setitem__" or (name.endswith("_") and not name.startswith("__")):
            self._look_at_write(given[0])
        else:
            self._look_at_use(name, list(_tensors(given)), list(_tensors([result])))

    def has(self, value: Tensor) -> bool:
        """Whether a value is computed of those of all processes."""
        with suppress(RuntimeError):  # too many to look at
            nodes = self._of_all | self._of_one
            return id(value) in self._values or any(n in nodes for n in below(value.grad_fn))
        return False

    def what_is_lost(self, loss: Tensor, model: LightningModule) -> str | None:
        """A line on a loss of all processes' values whose gradients are of one's; or `None`.

        A loss that is multiplied by the number of processes makes up for that.
        """
        if names := _synced_metrics(loss, model):
            return (
                f"{listed(names)}, with dist_sync_on_step=True, gives the loss a value of all "
                "processes, whose gradient is that of one process's samples, and too small: leave "
                "dist_sync_on_step out"
            )
        with suppress(AttributeError, RuntimeError):  # torch's names; a graph that is too large
            nodes = [*below(loss.grad_fn)] if self._of_one else []
            is_made_up = any(_multiplies_by_processes(node) for node in nodes)
            if not self._of_one.isdisjoint(nodes) and not is_made_up:
                return (
                    f"{type(model).__name__}.training_step gathers values of all processes without "
                    "their gradients, and its loss is computed of them, so its gradients are those "
                    "of one process's samples, and too small: gather by `self.all_gather(…, "
                    "sync_grads=True)` or `torch.distributed.nn.functional.all_gather`"
                )
        return None

    def _note(self, values: Any, of_grad: bool) -> None:
        self._values.update({id(t): (t, of_grad) for t in _tensors(values)})

    def _look_at_write(self, written: Any) -> None:
        """See to one's own part, put in its place among what was gathered."""
        if id(written) in self._values and written.requires_grad:
            del self._values[id(written)]
            self._of_one.add(written.grad_fn)

    def _look_at_use(self, name: str, given: list[Tensor], results: list[Tensor]) -> None:
        gathered = [t for t in given if id(t) in self._values]
        self._of_all.update(t.grad_fn for t in gathered if t.requires_grad)  # by a Function
        of_grad = [self._values[id(t)][1] for t in gathered if not t.requires_grad]
        for result in results if of_grad else ():
            if not result.requires_grad:
                self._note([result], any(of_grad))
            elif any(of_grad) or name in _JOINS:
                self._of_one.add(result.grad_fn)
            else:
                self._of_all.add(result.grad_fn)  # keys, say, that have no gradients anywhere


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _multiplies_by_processes(node: Node) -> bool:
    """Whether a node gives one number: another, times the number of processes."""
    if node.name() != "MulBackward0" or math.prod(node._input_metadata[0].shape) > 1:
        return False
    factors = (node._saved_self, node._saved_other)
    return any(f is not None and f.item() == dist.get_world_size() for f in factors)


def _synced_metrics(loss: Tensor, model: LightningModule) -> list[str]:
    """The torchmetrics objects that give the loss their value of all processes, by their names."""
    synced = {
        node: path
        for path, part in model.named_modules()
        if isinstance(part, Metric) and part.dist_sync_on_step
        for node in [getattr(part._forward_cache, "grad_fn", None)]
        if node is not None
    }
    with suppress(RuntimeError):
        return [synced[node] for node in below(loss.grad_fn) if node in synced] if synced else []
    return []
