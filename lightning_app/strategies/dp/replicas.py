"""Replicas of a module: how its forward runs on each part of a batch, and what it may write."""

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import parallel_apply, replicate

from lightning_app.strategies.checks.telling import TellOnce, listed
from lightning_app.strategies.dp.writes import (
    BuffersByRank,
    attributes,
    buffers,
    differing,
    set_by_name,
    tensors,
    written,
)
from lightning_app.strategies.module_calls import replicas_heard_as

# The rank of the replica that runs in this thread; `None` outside of replicas.
replica_rank: ContextVar[int | None] = ContextVar("replica_rank", default=None)

ReplicaListener = Callable[[Module, tuple[Any, ...], dict[str, Any], Any], None]


class Replicas:
    """Runs a module's forward, on CPUs one part after another, on GPUs in a thread each.

    Args:
        devices: One for each replica.
        listeners: Called in each replica, after the `forward` of an outermost module, with what a
            forward hook gets: the module, its arguments, and what it returned.
        tell: Tells a line.
    """

    def __init__(
        self, devices: list[torch.device], listeners: list[ReplicaListener], tell: TellOnce
    ) -> None:
        self._devices, self._listeners, self._tell = devices, listeners, tell

    def run(self, module: Module, inputs: list[Any], is_new: bool) -> list[Any]:
        """The outputs of all parts, in order.

        Args:
            module: Whose replicas run.
            inputs: Each part's arguments, those by position and by name.
            is_new: Look at what the forward writes, and tell of it.
        """
        in_threads = self._devices[0].type == "cuda"
        run = self._run_in_threads if in_threads else self._run_in_turn
        return run(module, inputs, is_new)

    def _run_in_turn(self, module: Module, inputs: list[Any], is_new: bool) -> list[Any]:
        by_rank, is_new = BuffersByRank(module, len(inputs)), is_new and len(inputs) > 1
        states, outputs = [], []
        for rank, (args, kwargs) in enumerate(inputs):
            with by_rank.of(rank):
                before = attributes(module) if is_new else {}
                outputs.append(self.call(module, rank, module, args, kwargs))
                if is_new:
                    own = {name: tensor.clone() for name, tensor in tensors(module).items()}
                    states.append(written(before, attributes(module)) | own)
        self._tell_of_writes(module, differing(states))
        return outputs

    def _run_in_threads(self, module: Module, inputs: list[Any], is_new: bool) -> list[Any]:
        devices = self._devices[: len(inputs)]
        if len(devices) == 1:
            return self._run_in_turn(module, inputs, is_new)
        replicas = replicate(module, devices, detach=not torch.is_grad_enabled())
        for replica, device in zip(replicas, devices, strict=True):
            for part in replica.modules():
                _move(vars(part), device)
        before = [attributes(replica) | buffers(replica) for replica in replicas]
        run = partial(self.call, module)
        call = _in_modes_of_this_thread(self._devices[0].type, run)
        calls = [partial(call, rank, replica) for rank, replica in enumerate(replicas)]
        with replicas_heard_as(module, replicas):
            outputs: list[Any] = parallel_apply(calls, inputs, devices=devices)  # type: ignore[arg-type]
        after = [attributes(replica) | buffers(replica) for replica in replicas]
        states = [written(*pair) for pair in zip(before, after, strict=True)]
        set_by_name(module, states[0])  # what is written in place is the module's own
        if is_new:
            pairs = zip(states, replicas, strict=True)
            self._tell_of_writes(module, differing([state | tensors(r) for state, r in pairs]))
        return outputs

    def call(
        self,
        module: Module,
        rank: int,
        replica: Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call the forward of a module's replica, which may be the module itself."""
        token = replica_rank.set(rank)
        try:
            output = replica.forward(*args, **kwargs)
            for listener in self._listeners:
                listener(module, args, kwargs, output)
            return output
        finally:
            replica_rank.reset(token)

    def _tell_of_writes(self, module: Module, names: list[str]) -> None:
        if names:
            self._tell(
                f"{type(module).__name__}.forward writes {listed(names)}, of each replica's own "
                "samples: `--strategy dp` keeps one replica's, so they differ from one device"
            )


def _move(own: dict[str, Any], device: torch.device) -> None:
    """Have a replica's plain tensors of a GPU on its own, as those that a forward has kept."""
    for name, value in own.items():
        if isinstance(value, Tensor) and value.is_cuda:  # one on the CPU is shared by all
            own[name] = value.to(device)
    if "_device" in own:  # Lightning's note of where a module is
        own["_device"] = device


def _in_modes_of_this_thread(device_type: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with what `parallel_apply` does not pass on of this thread's modes.

    These are inference mode, and the dtype of autocast.
    """
    dtype = torch.get_autocast_dtype(device_type)
    enabled = torch.is_autocast_enabled(device_type)
    is_inference = torch.is_inference_mode_enabled()

    def call(*args: Any, **kwargs: Any) -> Any:
        # Not `inference_mode(False)`: that would turn gradients on.
        inference = torch.inference_mode() if is_inference else nullcontext()
        with inference, torch.autocast(device_type, dtype=dtype, enabled=enabled):
            return function(*args, **kwargs)

    return call
