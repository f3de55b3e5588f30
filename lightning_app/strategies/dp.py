"""Several devices in one process: the model's forward is replicated, the step runs once.

This is what PyTorch's tutorial does with `nn.DataParallel(model)`: the training step gets the
global batch, the calls it makes to modules with parameters are split over the devices, and their
outputs come back as one. Loss, metrics and logging are those of the global batch with nothing to
merge. CPU "devices" are replicas that work one after another.

- Hooks on an outermost module run once, on the global batch; those within it run per replica.
- What is split is what surely has a row for each sample (`rows.py`); a call with anything doubtful
  runs in one piece, on the first device, and the run says so once. So does a torchmetrics object.
- Each replica starts from the buffers as they were; the first one's are kept, as on GPUs. Where
  the others' differ (running statistics), the run says so once; so too of attributes that `forward`
  writes: on CPUs the last replica's stay, and on GPUs none.

Not covered: lists and other objects that `forward` appends to; a `forward` that is called by its
name goes unsplit, and the modules it calls are the outermost ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakSet

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import parallel_apply, replicate
from torch.utils.data import DataLoader, default_collate
from torchmetrics import Metric
from typing_extensions import override

from lightning_app.strategies.first_steps import random_states
from lightning_app.strategies.one_sample import refused_by_batchnorm
from lightning_app.strategies.outermost import OutermostCalls, answered_by
from lightning_app.strategies.rows import Rows, tensors_in
from lightning_app.strategies.scatter_gather import (
    Gather,
    NotJoined,
    NotSplit,
    has_samples_elsewhere,
    looks_like_states,
    scatter,
)
from lightning_app.strategies.sharding import chunk_sizes
from lightning_app.strategies.single_device import SingleDeviceStrategy
from lightning_app.strategies.telling import TellOnce
from lightning_app.strategies.writes import BuffersByRank, attributes, differing, written

# The rank of the replica that runs in this thread; `None` outside of replicas.
replica_rank: ContextVar[int | None] = ContextVar("replica_rank", default=None)

ReplicaListener = Callable[[Module, tuple[Any, ...], dict[str, Any], Any], None]


class DataParallelStrategy(SingleDeviceStrategy):
    """Splits, within every step, each outermost call of a module with parameters.

    Attributes:
        listeners: Called in each replica, after the `forward` of an outermost module, with what a
            forward hook gets: the module, its arguments, and what it returned.
    """

    strategy_name = "dp"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._layer_sync: object = None  # the Trainer sets it under `sync_batchnorm`
        self.listeners: list[ReplicaListener] = []
        self._calls = OutermostCalls()
        self._num_calls = 0
        self._stacks_samples = True
        self._tell = TellOnce()
        self._known: dict[bool, WeakSet[Module]] = {mode: WeakSet() for mode in (False, True)}

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
        self._calls.watch()

    @override
    def teardown(self) -> None:
        self._calls.stop()
        super().teardown()

    @override
    def process_dataloader(self, dataloader: object) -> object:
        # torch's own collate_fn stacks samples along the first dimension.
        self._stacks_samples &= (
            isinstance(dataloader, DataLoader) and dataloader.collate_fn is default_collate
        )
        return super().process_dataloader(dataloader)

    def _note_batch(self, rows: Rows, batch: Any) -> None:
        lengths = {len(tensor) for tensor in tensors_in(batch) if tensor.ndim}
        sizes = self._sizes_asked() or lengths  # a stream's batch tells by its tensors
        if len(sizes) == 1:
            rows.note_batch(batch, sizes.pop(), self._stacks_samples)
        else:
            rows.note_batch(batch, 0, stacked=False)

    def _sizes_asked(self) -> set[int]:
        """How many samples the batch's loaders have asked for; none where this is not known."""
        return {shard.size for shard in self._current_shards() if not shard.is_ready_made}

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._splits((args, kwargs)):
            output = super().training_step(*args, **kwargs)
        if not self._num_calls and output is not None:
            raise MisconfigurationException(
                f"{type(self.lightning_module).__name__}.training_step calls no module that has "
                "parameters, so `--strategy dp` has nothing to split: compute in a module's "
                "`forward`, or use `--strategy ddp`"
            )
        return output

    @override
    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._splits((args, kwargs)):
            return super().validation_step(*args, **kwargs)

    @override
    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._splits((args, kwargs)):
            return super().test_step(*args, **kwargs)

    @override
    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._splits((args, kwargs)):
            return super().predict_step(*args, **kwargs)

    @contextmanager
    def _splits(self, batch: Any) -> Iterator[None]:
        self._num_calls = 0
        rows = Rows()
        self._note_batch(rows, batch)
        with answered_by(partial(self._answer, rows)), rows:
            yield

    def _answer(
        self, rows: Rows, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """An outermost module's forward, on the replicas where it can be split."""
        self._num_calls += 1
        try:
            shards = self._shards(rows, module, args, kwargs)
        except NotSplit as reason:
            if str(reason):
                what = f"{type(module).__name__} runs in one piece, not split by `--strategy dp`"
                self._tell(f"{what}: {reason}", subject=what)
            return self._call_replica(module, 0, module, args, kwargs)
        sizes = [size for size, _, _ in shards]
        inputs = [(args, kwargs) for _, args, kwargs in shards]
        is_new = self._is_new(module)
        before = random_states(self._devices) if is_new else None
        run = self._run_in_threads if self.root_device.type == "cuda" else self._run_in_turn
        rows.paused = True
        try:
            with refused_by_batchnorm(rows.size, f"{len(sizes)} replicas"):
                outputs = run(module, inputs, is_new)
            if is_new and random_states(self._devices) != before:
                self._tell(
                    f"{type(module).__name__}.forward draws random numbers (as dropout does), each "
                    "replica for its own samples, so its numbers depend on the number of devices"
                )
            on_mean = partial(self._tell_of_mean, module)
            return Gather(sizes, self.root_device, rows, on_mean)(outputs)
        except NotJoined as error:
            raise MisconfigurationException(
                f"{type(module).__name__} cannot be replicated by `--strategy dp`, as {error}: use "
                "`--strategy ddp`"
            ) from None
        finally:
            rows.paused = False

    def _shards(
        self, rows: Rows, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[tuple[int, tuple[Any, ...], dict[str, Any]]]:
        if isinstance(module, Metric) or rows.is_single or len(self._devices) == 1:
            raise NotSplit("")
        if not rows.size:
            raise NotSplit("nothing tells how many samples the batch has")
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            raise NotSplit("it is called within `torch.utils.checkpoint`, which may call it again")
        if has_samples_elsewhere(module):
            raise NotSplit("its samples are not along the first dimension (`batch_first=False`)")
        sizes = chunk_sizes(rows.size, len(self._devices))
        if looks_like_states(module, sizes):
            raise NotSplit(
                f"its RNN has states of {sizes[0]} layers, and a replica as many samples"
            )
        return scatter(args, kwargs, rows, self._devices, self._is_owned)

    def _is_owned(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or a buffer of the model, or a view of one."""
        model = self.lightning_module
        if model is None or tensor.layout != torch.strided:
            return False
        where = tensor.untyped_storage().data_ptr()
        owned = chain(model.parameters(), model.buffers())
        return any(
            own.layout == torch.strided and own.untyped_storage().data_ptr() == where
            for own in owned
        )

    def _run_in_turn(self, module: Module, inputs: list[Any], is_new: bool) -> list[Any]:
        buffers = BuffersByRank(module, len(inputs))
        states, outputs = [], []
        for rank, (args, kwargs) in enumerate(inputs):
            with buffers.of(rank):
                before = attributes(module) if is_new else {}
                outputs.append(self._call_replica(module, rank, module, args, kwargs))
                if is_new:
                    states.append(written(before, attributes(module)) | _buffers(module))
        self._tell_of_writes(module, differing(states))
        return outputs

    def _run_in_threads(self, module: Module, inputs: list[Any], is_new: bool) -> list[Any]:
        devices = self._devices[: len(inputs)]
        if len(devices) == 1:
            return self._run_in_turn(module, inputs, is_new)
        replicas = replicate(module, devices, detach=not torch.is_grad_enabled())
        for replica, device in zip(replicas, devices, strict=True):
            for part in replica.modules():
                if "_device" in vars(part):  # Lightning's note of where a module is
                    vars(part)["_device"] = device
        before = [attributes(replica) if is_new else {} for replica in replicas]
        run = partial(self._call_replica, module)
        call = _in_autocast_of_this_thread(self.root_device.type, run)
        calls = [partial(call, rank, replica) for rank, replica in enumerate(replicas)]
        outputs: list[Any] = parallel_apply(calls, inputs, devices=devices)  # type: ignore[arg-type]
        if is_new:
            lost = [written(old, attributes(r)) for old, r in zip(before, replicas, strict=True)]
            names = [*lost[0], *differing([_buffers(replica) for replica in replicas])]
            self._tell_of_writes(module, names)
        return outputs

    def _is_new(self, module: Module) -> bool:
        """Whether a module's writes have not been looked at in its mode, which is done once."""
        known = self._known[module.training]
        is_new = module not in known
        known.add(module)
        return is_new

    def _call_replica(
        self,
        module: Module,
        rank: int,
        replica: Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        token = replica_rank.set(rank)
        try:
            output = replica.forward(*args, **kwargs)
            for listener in self.listeners:
                listener(module, args, kwargs, output)
            return output
        finally:
            replica_rank.reset(token)

    def _tell_of_mean(self, module: Module) -> None:
        self._tell(
            f"{type(module).__name__} returns a scalar of each replica's samples: `--strategy dp` "
            "takes it for their mean"
        )

    def _tell_of_writes(self, module: Module, names: list[str]) -> None:
        if names:
            self._tell(
                f"{type(module).__name__}.forward writes {', '.join(names)}, of each replica's own "
                "samples: `--strategy dp` keeps one replica's, so they differ from one device"
            )


def _buffers(module: Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.named_buffers()}


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
