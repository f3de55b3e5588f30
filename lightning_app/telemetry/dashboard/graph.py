"""The Graphs tab: which module's output goes into which, noted as the model is called anyway.

The model is not called for it, and no module is switched, copied or written to. In the first
training step it is noted of each module whose outputs it was given. Between two modules the way is
found in autograd's graph.
"""

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_app import inside
from lightning_app.strategies.module_calls import ModuleCalls

INPUT = "input"
_KEY = "lightning_app.module"  # in the metadata of autograd's nodes
_MAX_OPERATIONS = 1000  # between two modules


class Node(NamedTuple):
    """A module that was called: its class, whose outputs it took, and its first output's shape."""

    kind: str
    sources: list[str]
    shape: list[int]


class GraphRecorder:
    """Notes the first call of each of a model's modules, in its `training_step`.

    Args:
        model: Whose graph it is.
    """

    def __init__(self, model: LightningModule) -> None:
        self.nodes: dict[str, Node] = {}
        self._model = model
        self._made: dict[int, tuple[weakref.ref[Tensor], str]] = {}  # outputs without a gradient
        self._left = {name: module for name, module in model.named_modules() if name}
        self._calls = ModuleCalls(
            {module: partial(self._note, name) for name, module in self._left.items()}
        )
        self._calls.follow()

    def stop(self) -> None:
        """Note no more."""
        self._calls.stop()
        self._made = {}

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if inside.running_hook(self._model) != "training_step":
            return
        module = self._left.pop(name, None)
        if module is None:  # of a replica; the first one's call stands for all
            return
        del self._calls.listeners[id(module)]
        if any(inner.startswith(f"{name}.") for inner in self.nodes):
            return  # those that it has called are shown
        outputs = list(_tensors(output))
        sources = [source for given in _tensors((args, kwargs)) for source in self._sources(given)]
        shape = list(outputs[0].shape) if outputs and not outputs[0].is_nested else []
        self.nodes[name] = Node(type(module).__name__, list(dict.fromkeys(sources)), shape)
        for made in outputs:
            if made.grad_fn is None:
                self._made[id(made)] = weakref.ref(made), name
            else:
                _metadata(made.grad_fn).setdefault(_KEY, name)

    def _sources(self, tensor: Tensor) -> list[str]:
        """The modules that a tensor comes from."""
        reference, name = self._made.get(id(tensor), (None, ""))
        if reference is not None and reference() is tensor:
            return [name]
        found: list[str] = []
        left = [tensor.grad_fn]
        seen: set[torch.autograd.graph.Node] = set()
        while left and len(seen) < _MAX_OPERATIONS:
            operation = left.pop()
            if operation is None or operation in seen:
                continue
            seen.add(operation)
            if _KEY in (noted := _metadata(operation)):
                found.append(noted[_KEY])
            else:
                left += [before for before, _ in operation.next_functions]
        return found or [INPUT]


def _metadata(operation: torch.autograd.graph.Node) -> dict[str, str]:
    return cast(dict[str, str], operation.metadata)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
