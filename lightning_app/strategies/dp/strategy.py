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
  writes: on CPUs the last replica's stay, on GPUs the first one's.

Not covered: lists and other objects that `forward` appends to; a `forward` that is called by its
name goes unsplit, and the modules it calls are the outermost ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakSet

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, default_collate
from torchmetrics import Metric
from typing_extensions import override

from lightning_app.strategies.batch.rows import Rows, is_in_transform, tensors_in
from lightning_app.strategies.batch.sharding import chunk_sizes
from lightning_app.strategies.checks.batchnorm import refused_by_batchnorm, tell_of_statistics
from lightning_app.strategies.checks.first_steps import random_states, remedy
from lightning_app.strategies.checks.padding import listeners_to_encoders
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.dp.replicas import ReplicaListener, Replicas
from lightning_app.strategies.dp.scatter_gather import (
    Gather,
    NotJoined,
    NotSplit,
    has_samples_elsewhere,
    looks_like_states,
    scatter,
)
from lightning_app.strategies.module_calls import ModuleCalls, answered_by
from lightning_app.strategies.single_device import SingleDeviceStrategy


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
        self._calls = ModuleCalls()
        self._num_calls = 0
        self._stacks_samples = True
        self._tell = TellOnce()
        self._replicas = Replicas([], self.listeners, self._tell)
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
        self._replicas = Replicas(self._devices, self.listeners, self._tell)

    @override
    def setup(self, trainer: Trainer) -> None:
        if self._layer_sync is not None:
            raise MisconfigurationException(
                "--sync_batchnorm does nothing for replicas in one process: use `--strategy ddp`"
            )
        super().setup(trainer)
        self._calls = ModuleCalls(listeners_to_encoders(trainer.lightning_module, self._tell))
        self._calls.follow()

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
        lengths = {tensor.size(0) for tensor in tensors_in(batch) if tensor.ndim}
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
        shards = self._shards_or_none(rows, module, args, kwargs)
        if shards is None:
            return self._replicas.call(module, 0, module, args, kwargs)
        sizes = [size for size, _, _ in shards]
        inputs = [(args, kwargs) for _, args, kwargs in shards]
        is_new = self._is_new(module)
        before = random_states(self._devices) if is_new else None
        rows.paused = True
        try:
            with refused_by_batchnorm(rows.size, f"{len(sizes)} replicas"):
                outputs = self._replicas.run(module, inputs, is_new)
            if is_new and random_states(self._devices) != before:
                self._tell(
                    f"{type(module).__name__}.forward draws random numbers (as dropout does), each "
                    "replica for its own samples, so its numbers depend on the number of devices"
                    + remedy(
                        self._trainer.lightning_module,
                        bool(self._trainer.predicting),
                        "--strategy ddp --virtual_ranks N",
                    )
                )
            if is_new:
                tell_of_statistics(module, "replica", "", self._tell)
            on_mean = partial(self._tell_of_mean, module)
            return Gather(sizes, self.root_device, rows, on_mean)(outputs)
        except NotJoined as error:
            raise MisconfigurationException(
                f"{type(module).__name__} cannot be replicated by `--strategy dp`, as {error}: use "
                "`--strategy ddp`"
            ) from None
        finally:
            rows.paused = False

    def _shards_or_none(
        self, rows: Rows, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[tuple[int, tuple[Any, ...], dict[str, Any]]] | None:
        try:
            return self._shards(rows, module, args, kwargs)
        except NotSplit as reason:
            if str(reason):
                what = f"{type(module).__name__} runs in one piece, not split by `--strategy dp`"
                self._tell(f"{what}: {reason}", subject=what)
            return None

    def _shards(
        self, rows: Rows, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[tuple[int, tuple[Any, ...], dict[str, Any]]]:
        if isinstance(module, Metric) or rows.is_single or len(self._devices) == 1:
            raise NotSplit("")
        if not rows.size:
            raise NotSplit("nothing tells how many samples the batch has")
        if any(map(is_lazy, chain(module.parameters(), module.buffers()))):
            raise NotSplit("")  # its first call makes its weights
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            raise NotSplit("it is called within `torch.utils.checkpoint`, which may call it again")
        if is_in_transform():
            raise NotSplit("it is called within a transform of `torch.func`")
        if has_samples_elsewhere(module):
            raise NotSplit("its samples are not along the first dimension (`batch_first=False`)")
        sizes = chunk_sizes(rows.size, len(self._devices))
        if looks_like_states(module, sizes):
            raise NotSplit(
                f"its RNN's states have {sizes[0]} rows, which may be layers or a replica's samples"
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

    def _is_new(self, module: Module) -> bool:
        """Whether a module's writes have not been looked at in its mode, which is done once."""
        known = self._known[module.training]
        is_new = module not in known
        known.add(module)
        return is_new

    def _tell_of_mean(self, module: Module) -> None:
        self._tell(
            f"{type(module).__name__} returns a scalar of each replica's samples: `--strategy dp` "
            "takes it for their mean"
        )
