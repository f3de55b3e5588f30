"""`train.py predict` keeps what the model predicted, in the loader's order, on any layout.

Tensors and arrays of a batch are joined, wherever they are in dictionaries, lists, tuples and
dataclasses; what else a batch's prediction holds becomes a list with an entry for each batch.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint
from torch.utils._pytree import tree_leaves, tree_map_only
from typing_extensions import override

from lightning_app import inside, strategies
from lightning_app.checkpoint.io import run_folder, save_whole
from lightning_app.errors import RunError, first_line
from lightning_app.modules import say
from lightning_app.processes.collectives import gather_objects
from lightning_app.strategies.loaders.loader import ShardedLoader

FILE = "predictions.pt"
HOW_TO_LOAD = "; torch.load reads it with weights_only=False"
Part = tuple[int, set[int], Any]  # a batch's number, the lengths of its tensors, its prediction


class NotSaved(RunError):
    """What was predicted is lost."""


class PredictionWriter(Callback):
    """Writes `predictions.pt`: what there is of one loader, or a list of that, of each loader.

    Not Lightning's `BasePredictionWriter`, which refuses to train a model that predicts by
    `dataloader_iter`.
    """

    def __init__(self) -> None:
        self._parts: dict[int, list[Part]] = {}  # of this rank, by the loader's number

    @override
    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parts = {}

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        loader = inside.predict_loader(trainer, dataloader_idx)
        # A rank without samples in a batch may leave it out.
        number = loader.sharding.place if isinstance(loader, ShardedLoader) else batch_idx
        lengths = {
            len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim
        }
        prediction = tree_map_only(Tensor, lambda tensor: tensor.cpu(), outputs)
        self._parts.setdefault(dataloader_idx, []).append((number, lengths, prediction))

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parts, self._parts = self._parts, {}
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.world_size > 1 and not strategies.splits_batches(trainer.strategy):
            say(pl_module, "Predictions not saved: this strategy's order of samples is not known")
            return
        folder, ranks = run_folder(trainer), gather_objects(parts)
        if trainer.is_global_zero:
            print(_save(folder, in_order(ranks), num_batches(ranks)))


def in_order(ranks: Sequence[dict[int, list[Part]]]) -> list[Any]:
    """The joined predictions of each loader.

    Args:
        ranks: The parts that each rank has predicted, by the loader's number.
    """
    loaders = []
    for number in sorted(set().union(*ranks)):
        parts = [part for rank in ranks for part in rank.get(number, [])]
        parts.sort(key=lambda part: part[0])  # those of one batch stay in the order of ranks
        loaders.append(join([value for *_, value in parts], [lengths for _, lengths, _ in parts]))
    return loaders


def num_batches(ranks: Sequence[dict[int, list[Part]]]) -> list[int]:
    """How many batches of each loader were predicted, by all ranks together."""
    numbers = sorted(set().union(*ranks))
    return [len({part[0] for rank in ranks for part in rank.get(n, [])}) for n in numbers]


def join(values: list[Any], lengths: list[set[int]]) -> Any:
    """Make one of the predictions of several batches.

    Args:
        values: The predictions.
        lengths: Those of the tensors in each batch; none where they are not known.
    """
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        return values
    if isinstance(first, (Tensor, np.ndarray)):
        joins: Any = torch.cat if isinstance(first, Tensor) else np.concatenate
        return joins(values) if _can_be_joined(values, lengths) else values
    if isinstance(first, dict) and all(value.keys() == first.keys() for value in values):
        return {key: join([value[key] for value in values], lengths) for key in first}
    if is_dataclass(first):
        joined = copy.copy(first)
        for name in (field.name for field in fields(first)):
            column = join([getattr(value, name) for value in values], lengths)
            object.__setattr__(joined, name, column)
        return joined
    if isinstance(first, (list, tuple)):
        if all(_is_of_samples(*pair) for pair in zip(values, lengths, strict=True)):
            return [sample for value in values for sample in value]
        if all(len(value) == len(first) for value in values):
            columns = [join(list(column), lengths) for column in zip(*values, strict=True)]
            return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    return values


def _is_of_batch(value: Any, lengths: set[int]) -> bool:
    is_array = isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0
    return is_array and (not lengths or len(value) in lengths)


def _can_be_joined(tensors: list[Any], lengths: list[set[int]]) -> bool:
    alike = {(tensor.shape[1:], tensor.dtype) for tensor in tensors}
    return len(alike) == 1 and all(map(_is_of_batch, tensors, lengths))


def _is_of_samples(values: Sequence[Any], lengths: set[int]) -> bool:
    """Whether a sequence has an entry for each sample of a batch, say a text."""
    if hasattr(values, "_fields") or (lengths and len(values) not in lengths):
        return False
    return not any(isinstance(v, (dict, list, tuple)) or _is_of_batch(v, lengths) for v in values)


def _save(folder: str, loaders: list[Any], batches: list[int]) -> str:
    """Write them, and tell so in one line.

    Args:
        folder: Where to.
        loaders: What was predicted of each loader.
        batches: How many batches each had.

    Raises:
        NotSaved: The disk is full, say, or one of them cannot be pickled.
    """
    if not any(leaf is not None for leaf in tree_leaves(loaders)):
        return "No predictions to save: predict_step has returned None for every batch"
    value = loaders[0] if len(loaders) == 1 else loaders
    path = os.path.join(folder, FILE)
    try:
        save_whole(value, path)
    except OSError as error:
        raise NotSaved(f"predictions not saved in {path}: {error.strerror or error}") from error
    except Exception as error:  # of an object that cannot be pickled
        raise NotSaved(f"predictions not saved in {path}: {first_line(error)}") from error
    parts = [describe(*pair) for pair in zip(loaders, batches, strict=True)]
    what = parts[0] if len(parts) == 1 else f"a list of {len(parts)}, by loader: {'; '.join(parts)}"
    has_objects = inside.is_local_file(path) and get_unsafe_globals_in_checkpoint(path)
    return f"Saved in {path}: {what}" + (HOW_TO_LOAD if has_objects else "")


def describe(value: Any, num_batches: int) -> str:
    """What was predicted, in a few words.

    Args:
        value: Of all batches.
        num_batches: How many there were.
    """
    kind = type(value).__name__
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} {tuple(value.shape)}"
    if isinstance(value, dict):
        entries = (f"{key} {describe(entry, num_batches)}" for key, entry in value.items())
        return f"a dict: {', '.join(entries)}"
    if isinstance(value, list):
        return f"a list of {len(value)}" + ", one for each batch" * (len(value) == num_batches)
    if isinstance(value, tuple):
        return f"a {kind} of {len(value)}: " + ", ".join(describe(e, num_batches) for e in value)
    return f"a {kind}"
