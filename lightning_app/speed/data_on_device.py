"""`--data_on_device`: all training samples collated once and kept where the model is.

A batch is then one selection of rows on the device, with nothing but its indices to transfer, in
place of fetching samples, collating and transferring them. The split, the order and the hooks of a
batch's transfer are as without it. Each process holds all samples, as each may get any of them.

Not covered: validation, data that does not fit, and samples that seldom differ: some are asked for
twice, not all. All are in the host's memory first, in each process.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_app import strategies
from lightning_app.strategies.loaders.loader import ShardedLoader
from lightning_app.strategies.loaders.passes import Indices

NUM_CHECKED = 64  # samples that are asked for twice
CHECKED_AT_ONCE = 8  # so that a `collate_fn` that goes by the batch gives something else


class DataOnDevice(Callback):
    """Has each training loader take its batches from the device."""

    def __init__(self) -> None:
        self._loader: object = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hold(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hold(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._let_go()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        """Free the memory, of which the samples of another loader may need all."""
        if isinstance(self._loader, ShardedLoader):
            self._loader.sharding.fetch = None
        self._loader = None

    def _hold(self, trainer: Trainer) -> None:
        loader: Any = trainer.train_dataloader
        if loader is self._loader:
            return
        if not (isinstance(loader, ShardedLoader) and strategies.splits_batches(trainer.strategy)):
            raise MisconfigurationException(
                "--data_on_device: it needs one training loader with a length, and a strategy of "
                "this project (dp, ddp, one device); leave it out"
            )
        self._let_go()
        self._loader = loader
        loader.sharding.fetch = HeldSamples(loader, trainer.strategy.root_device)


class HeldSamples:
    """All samples of a loader's data set, as its `collate_fn` puts them together.

    Args:
        loader: Its workers are not used.
        device: Where they are kept.

    Raises:
        MisconfigurationException: They are not tensors with a row for each sample, some of them
            come out different when asked for again, or they take more memory than is free there.
    """

    def __init__(self, loader: DataLoader[Any], device: torch.device) -> None:
        num_samples = len(loader.dataset)  # type: ignore[arg-type]
        samples = _collated(loader, range(num_samples))
        tensors = tree_flatten(samples)[0]
        if not all(isinstance(t, Tensor) and t.ndim and len(t) == num_samples for t in tensors):
            raise _refusal(
                loader, "gives something that is not a tensor with a row for each sample"
            )
        few = range(0, num_samples, -(-num_samples // NUM_CHECKED))
        for start in range(0, len(few), CHECKED_AT_ONCE):
            part = few[start : start + CHECKED_AT_ONCE]
            again = tree_flatten(_collated(loader, part))[0]
            if not all(map(_equal, [t[list(part)] for t in tensors], again)):
                raise _refusal(loader, "gives samples that differ each time, or by their batch")
        num_bytes = sum(t.nbytes for t in tensors)
        if device.type == "cuda" and num_bytes > (free := _free_bytes(device)):
            sizes = f"takes {num_bytes / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free"
            raise _refusal(loader, f"{sizes} on {device}")
        self._samples = move_data_to_device(samples, device)
        self._device = device

    def __call__(self, indices: Indices) -> Any:
        """The batch of these samples, on the device."""
        rows = move_data_to_device(torch.as_tensor(indices), self._device)
        if not rows.ndim:  # one sample, of a loader that puts none together
            return tree_map(lambda tensor: tensor[rows], self._samples)
        return tree_map(lambda tensor: tensor.index_select(0, rows), self._samples)


def _collated(loader: DataLoader[Any], indices: Sequence[int]) -> Any:
    """What the loader would make of a batch with these indices."""
    dataset, collate = loader.dataset, loader.collate_fn
    if loader.batch_sampler is None:
        return collate(dataset[torch.tensor(indices)])
    return collate([dataset[index] for index in indices])


def _free_bytes(device: torch.device) -> int:
    torch.cuda.empty_cache()  # or what torch keeps for itself counts as used
    return torch.cuda.mem_get_info(device)[0]


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same numbers; NaN is one."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _refusal(loader: DataLoader[Any], why: str) -> MisconfigurationException:
    name = type(loader.dataset).__name__
    return MisconfigurationException(f"--data_on_device: {name} {why}; leave it out")
