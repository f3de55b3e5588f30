"""One step of a global batch, by the virtual ranks of this process, one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_app import inside
from lightning_app.strategies.batch.batch_size import num_rows
from lightning_app.strategies.batch.loss_weight import MEAN_OVER
from lightning_app.strategies.dp.replicas import replica_rank
from lightning_app.strategies.virtual.part_logs import Logged, logged_in, values_of_objects

Shares = list[float]  # of each part in the step's mean


class Note(NamedTuple):
    """What other processes have to know of a part.

    Attributes:
        loss: The part's mean; `None` in evaluation.
        dtype: Of the loss.
        num_samples: In the part's batch.
        mean_over: What the model says that its means are over.
        logged: By `self.log`.
    """

    loss: float | None
    dtype: torch.dtype | None
    num_samples: int
    mean_over: float | None
    logged: dict[str, Logged]


@dataclass
class Done:
    """What a process's parts of a step have given.

    Attributes:
        notes: By the part's number.
        outputs: What the model's step has returned, in the order of parts.
        objects: What torchmetrics objects gave in the first part.
    """

    notes: dict[int, Note] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)
    objects: dict[str, Any] = field(default_factory=dict)


def run_part(
    model: LightningModule,
    step: Callable[[Any], Any],
    batch: Any,
    part: int,
    size: int,
    told: float | None,
    backward: Callable[[Tensor], None] | None,
    done: Done,
) -> None:
    """Run the model's step on one part, and its backward pass.

    Args:
        model: The user's.
        step: Its step; takes a batch.
        batch: The part's.
        part: Its number.
        size: Samples that the loader asked for.
        told: What the model says that its means are over; `None`: the samples.
        backward: What to do with the loss of a training step; `None` in evaluation.
        done: What comes of it is put there.

    Raises:
        MisconfigurationException: If the batch has fewer samples than the loader asked for.
    """
    num_samples = num_rows(batch, size)
    if told is None and num_samples < size:
        raise MisconfigurationException(
            f"virtual rank {part}: the batch has {num_samples} of the {size} samples asked for, "
            "so the weight of its loss is not known: leave samples out in the data set, not in "
            f"collate_fn, or give the number by a method `{MEAN_OVER}(batch)` of the model"
        )
    token = replica_rank.set(part)
    try:
        with inside.logging_apart(model.trainer, num_samples) as results:
            output = step(batch)
    finally:
        replica_rank.reset(token)
    value = dtype = None
    if backward is not None:
        loss = loss_in(output)
        hook = inside.running_hook(model)
        inside.set_hook(model, "backward")
        backward(loss)
        inside.set_hook(model, hook)
        value, dtype = float(loss.detach()), loss.dtype
    done.outputs.append(apply_to_collection(output, Tensor, torch.Tensor.detach))
    done.notes[part] = Note(value, dtype, num_samples, told, logged_in(results))
    if len(done.notes) == 1:
        done.objects = dict(values_of_objects(results))


def loss_in(output: Any) -> Tensor:
    """The loss that a training step has returned.

    Raises:
        MisconfigurationException: There is none.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise MisconfigurationException(
            "--virtual_ranks: training_step returned no loss, and one virtual rank cannot skip a "
            "step: return the loss times 0"
        )
    return loss


def mean_loss(notes: list[Note], shares: Shares) -> Tensor:
    """The step's loss, alike on all processes, on the CPU."""
    pairs = [(note.loss or 0.0, share) for note, share in zip(notes, shares, strict=True) if share]
    return torch.tensor(sum(loss * share for loss, share in pairs), dtype=notes[0].dtype)


def joined_output(done: Done, loss: Tensor) -> Any:
    """What the Trainer gets for the output of a training step: the loss of the whole batch.

    What else a step has returned comes as a list with a value of each part of this process.
    """
    first = done.outputs[0] if done.outputs else None
    if not isinstance(first, Mapping):
        return loss
    extra = {key: [out.get(key) for out in done.outputs] for key in first if key != "loss"}
    return {"loss": loss, **extra}
