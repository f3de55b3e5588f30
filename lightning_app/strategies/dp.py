"""Several devices in one process: the model's forward is replicated, the step runs once.

This is what PyTorch's tutorial does with `nn.DataParallel(model)`: the training step gets the
global batch, the calls it makes to modules with parameters are split over the devices, and their
outputs come back as one. Loss, metrics and logging are those of the global batch with nothing to
merge. CPU "devices" are replicas that work one after another.

Not covered: attributes that `forward` writes on a CUDA replica are lost, as in `nn.DataParallel`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch.nn import Module
from torch.nn.parallel import parallel_apply, replicate
from typing_extensions import override

from lightning_app.own_forward import give_forward_back, replace_forward
from lightning_app.strategies.scatter_gather import gather, scatter
from lightning_app.strategies.single_device import SingleDeviceStrategy

# The rank of the replica that runs in this thread; `None` outside of replicas.
replica_rank: ContextVar[int | None] = ContextVar("replica_rank", default=None)


class DataParallelStrategy(SingleDeviceStrategy):
    """Splits, within every step, each outermost call of a module with parameters."""

    strategy_name = "dp"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._layer_sync: object = None  # the Trainer sets it under `sync_batchnorm`
        self._in_step = False
        self._num_splits = 0

    @property
    @override
    def parallel_devices(self) -> list[torch.device]:
        """One device per replica; the first holds the model and the results."""
        return self._devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        self._devices = list(devices)
        self._root_device = self._devices[0]

    @override
    def setup(self, trainer: Trainer) -> None:
        if self._layer_sync is not None:
            raise MisconfigurationException(
                "--sync_batchnorm does nothing for replicas in one process: use `--strategy ddp`"
            )
        super().setup(trainer)
        assert self.lightning_module is not None
        for module in self.lightning_module.modules():
            if next(module.parameters(), None) is not None:
                replace_forward(module, self._splitting(module))

    @override
    def teardown(self) -> None:
        if self.lightning_module is not None:
            for module in self.lightning_module.modules():
                give_forward_back(module)
        super().teardown()

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._splits():
            output = super().training_step(*args, **kwargs)
        if not self._num_splits:
            raise MisconfigurationException(
                f"{type(self.lightning_module).__name__}.training_step calls no module that has "
                "parameters, so `--strategy dp` has nothing to split: compute in a module's "
                "`forward`, or use `--strategy ddp`"
            )
        return output

    @override
    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._splits():
            return super().validation_step(*args, **kwargs)

    @override
    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._splits():
            return super().test_step(*args, **kwargs)

    @override
    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._splits():
            return super().predict_step(*args, **kwargs)

    @contextmanager
    def _splits(self) -> Iterator[None]:
        self._in_step, self._num_splits = True, 0
        try:
            yield
        finally:
            self._in_step = False

    def _splitting(self, module: Module) -> Callable[..., Any]:
        forward = module.forward

        def splitting_forward(*args: Any, **kwargs: Any) -> Any:
            if not self._in_step or replica_rank.get() is not None:
                return forward(*args, **kwargs)
            self._num_splits += 1
            return self._split(module, args, kwargs)

        return splitting_forward

    def _split(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            shards = scatter((args, kwargs), self._devices)
        except ValueError as error:
            raise MisconfigurationException(
                f"{type(module).__name__} cannot be split by `--strategy dp`: {error}"
            ) from None
        sizes = [size for size, _ in shards]
        run = self._run_in_threads if self.root_device.type == "cuda" else _run_in_turn
        return gather(run(module, [inputs for _, inputs in shards]), sizes, self.root_device)

    def _run_in_threads(self, module: Module, inputs: list[Any]) -> list[Any]:
        devices = self._devices[: len(inputs)]
        if len(devices) == 1:
            return _run_in_turn(module, inputs)
        replicas = replicate(module, devices, detach=not torch.is_grad_enabled())
        for replica, device in zip(replicas, devices, strict=True):
            for part in replica.modules():
                give_forward_back(part)  # it would lead back to the original
                if "_device" in vars(part):  # Lightning's note of where a module is
                    vars(part)["_device"] = device
        call = _in_autocast_of_this_thread(self.root_device.type, _call_replica)
        calls = [partial(call, rank, replica) for rank, replica in enumerate(replicas)]
        return parallel_apply(calls, inputs, devices=devices)  # type: ignore[arg-type]


def _run_in_turn(module: Module, inputs: list[Any]) -> list[Any]:
    return [_call_replica(rank, module, *shard) for rank, shard in enumerate(inputs)]


def _in_autocast_of_this_thread(
    device_type: str, function: Callable[..., Any]
) -> Callable[..., Any]:
    """The function with this thread's autocast, whose dtype `parallel_apply` does not pass on."""
    dtype = torch.get_autocast_dtype(device_type)
    enabled = torch.is_autocast_enabled(device_type)

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype=dtype, enabled=enabled):
            return function(*args, **kwargs)

    return call


def _call_replica(rank: int, replica: Module, args: Any, kwargs: Any) -> Any:
    token = replica_rank.set(rank)
    try:
        return replica(*args, **kwargs)
    finally:
        replica_rank.reset(token)
