"""What a step gathers of all processes, and whether gradients go back to all of them.

`torch.distributed.all_gather` gives values without gradients. A loss of these and of a process's
own has the gradient of its own part alone, which is averaged as that of a mean: it is another than
on one device, by the number of processes.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

from lightning_app.strategies.checks.loss_graph import Node, below
from lightning_app.strategies.checks.telling import listed

_NESTED = (Tensor, list, tuple)
_JOINS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}  # with one's own part


class _Value(NamedTuple):
    """A tensor without gradients, of values that all processes have given.

    Attributes:
        tensor: Held weakly: others may have its `id` after it.
        loses: Gradients, which those had that it was made of.
        is_part: It is what one process has given.
    """

    tensor: "weakref.ref[Tensor]"
    loses: bool
    is_part: bool


class Gathers:
    """Follows values of all processes through a step, by what it calls."""

    def __init__(self) -> None:
        self._values: dict[int, _Value] = {}
        self._kept: set[Node] = set()  # of the graph: made of such values, and no gradient is lost
        self._lost: set[Node] = set()  # gradients go back to this process's own part alone

    def look(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Note what a call has given.

        Raises:
            RuntimeError: A tensor cannot be looked at, as a view of what was written to since.
        """
        name, given = getattr(func, "__name__", ""), [*args, *kwargs.values()]
        if name.startswith("all_gather"):
            outputs, inputs = (given[:1], given[1:]) if result is None else ([result], given)
            for output in _tensors(outputs):
                self._note(output, any(t.requires_grad for t in _tensors(inputs)), is_part=True)
        elif not self._values:
            return
        elif name == "__setitem__" or (name.endswith("_") and not name.startswith("__")):
            self._look_at_write(given[0], [*_tensors(given[1:])])
        else:
            self._look_at_use(name, [*_tensors(given)], [*_tensors([result])])

    def has(self, value: Tensor) -> bool:
        """Whether a value is computed of those of all processes."""
        nodes = self._kept | self._lost
        if not (nodes or self._values):
            return False
        with suppress(RuntimeError):  # too many to look at
            return self._of(value) is not None or any(n in nodes for n in below(value.grad_fn))
        return True

    def forget_values(self) -> None:
        """At a step's end; what its loss is computed of is still known."""
        self._values.clear()

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
            nodes = [*below(loss.grad_fn)] if self._lost else []
            is_made_up = any(_multiplies_by_processes(node) for node in nodes)
            if not self._lost.isdisjoint(nodes) and not is_made_up:
                return (
                    f"{type(model).__name__}.training_step gathers values of all processes without "
                    "their gradients, and its loss is computed of them, so its gradients are those "
                    "of one process's samples: gather equal parts by `self.all_gather(…, "
                    "sync_grads=True)`"
                )
        return None

    def _of(self, tensor: Tensor) -> _Value | None:
        found = self._values.get(id(tensor))
        return found if found is not None and found.tensor() is tensor else None

    def _note(self, tensor: Tensor, loses: bool, is_part: bool = False) -> None:
        for one in (tensor, tensor._base):
            if one is not None:
                self._values[id(one)] = _Value(weakref.ref(one), loses, is_part)

    def _look_at_write(self, target: Tensor, written: list[Tensor]) -> None:
        """See to one's own part, put in its place among what was gathered; and to copies."""
        whole = target if target._base is None else target._base
        sources = [value for t in written if (value := self._of(t)) is not None]
        is_gathered = self._of(target) is not None or self._of(whole) is not None
        if is_gathered and target.requires_grad:
            self._values.pop(id(whole), None)
            self._values.pop(id(target), None)
            self._lost.update((target.grad_fn, whole.grad_fn))
        elif sources:
            self._note(target, any(value.loses for value in sources))

    def _look_at_use(self, name: str, given: list[Tensor], results: list[Tensor]) -> None:
        gathered = [(t, value) for t in given if (value := self._of(t)) is not None]
        self._kept.update(t.grad_fn for t, _ in gathered if t.requires_grad)  # by a Function
        used = [(t, value) for t, value in gathered if not t.requires_grad]
        if not used:
            return
        parts = {t.shape for t, value in used if value.is_part}
        is_put_back = name in _JOINS and any(t.requires_grad and t.shape in parts for t in given)
        loses = any(value.loses for _, value in used)
        is_meant = name == "detach" or not (torch.is_grad_enabled() or name in _JOINS)
        for result in results:
            if result.requires_grad:
                (self._lost if loses or is_put_back else self._kept).add(result.grad_fn)
            else:
                self._note(result, loses and result.is_floating_point() and not is_meant)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)) and isinstance(next(iter(value), None), _NESTED):
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
