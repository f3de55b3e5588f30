"""Tells, in the first steps of each kind, what makes numbers depend on the number of devices.

That is by their nature so of random numbers, which each process draws for its own shard, and of
what a step keeps of its shard: in buffers, as BatchNorm its statistics, or in plain attributes.
"""

import pickle
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_app.hooks import has_hook
from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.batch.loss_weight import MEAN_OVER
from lightning_app.strategies.batch.sharding import Shard, shard_sizes
from lightning_app.strategies.checks.alone import before
from lightning_app.strategies.checks.asking import asks_for_devices
from lightning_app.strategies.checks.batchnorm import tell_of_statistics
from lightning_app.strategies.checks.gathers import Gathers
from lightning_app.strategies.checks.kept import SampleCounts, differing, kept_by, lists_in, written
from lightning_app.strategies.checks.loss_graph import why_no_mean
from lightning_app.strategies.checks.means import tells_of_weighted_means
from lightning_app.strategies.checks.padding import (
    is_fast,
    padded_apart,
    shapes_of,
    tell_of_encoder,
)
from lightning_app.strategies.checks.refused import sums_told
from lightning_app.strategies.checks.telling import TellOnce, listed

Key = TypeVar("Key")

NUM_STEPS = 10  # that are looked at


class FirstSteps:
    """Looks at what the first steps of a rank draw and keep.

    Args:
        model: The user's; `device` is the one that it is on.
        tell: Is given what is to be told.
    """

    def __init__(self, model: LightningModule, device: torch.device, tell: TellOnce) -> None:
        self._model = model
        self._step = f"{type(model).__name__}.training_step"
        self._device = device
        self._num_watched: Counter[str] = Counter()  # steps, by their kind
        self._after: Any = "", None  # the step before's kind, and the random states at its end
        self._gathers = Gathers()  # of the newest step
        self._no_mean: str | None = None  # why a loss is none; not seen where a part divides it
        self._counts = SampleCounts()
        self._written: set[str] = set()  # by each rank, of its own samples
        self._tell = tell

    @contextmanager
    def watch(self, hook: str, shard: Shard, batch: Any = None) -> Iterator[None]:
        """Look at a step of a rank's shard; in training all ranks have to call this.

        Args:
            hook: The step's name.
            shard: This rank's part.
            batch: What the step is given of it.
        """
        self._gathers = Gathers()
        if self._num_watched[hook] >= NUM_STEPS:
            yield
            return
        self._num_watched[hook] += 1
        model = type(self._model).__name__
        is_training = hook == "training_step"
        states, own_states = random_states([self._device]), self._own_generators()
        before_it = kept_by(self._model, shard.size) if is_training else {}
        previous, at_its_end = self._after
        if shard.number == 1 and previous == hook and at_its_end != states:
            self._tell(
                f"random numbers are drawn between the first two steps of {model}; if they augment "
                "samples, each process draws its own, so the numbers depend on the number of "
                "devices"
            )
        with self._watch_mean(f"{model}.{hook}", shard.size):
            yield
        self._gathers.forget_values()
        after = random_states([self._device])
        self._after = hook, after
        if after != states:
            self._tell(
                f"{model}.{hook} draws random numbers (as dropout does), each process for its own "
                "samples, so its numbers depend on the number of devices"
                + remedy(self._model, hook == "predict_step")
            )
        later = self._own_generators()
        if drawn := [name for name, state in own_states.items() if later.get(name) != state]:
            self._tell(
                f"{model}.{hook} draws from {listed(drawn)}: what it draws there for each sample, "
                "and not once a batch, depends on the number of devices: draw that from the global "
                "generators",
                subject="generators",
            )
        covered = remedy(self._model, hook == "predict_step")
        covered += "; on GPUs: --sync_batchnorm" * is_training
        tell_of_statistics(self._model, "process", covered, self._tell)
        if is_training:
            after_it = kept_by(self._model, shard.size)
            counts = self._counts.own(before_it, after_it, shard)
            prints = written(self._model, before_it, after_it)
            own = prints, shapes_of(batch, shard.size), self._no_mean
            ranks = [rank for rank in all_objects(own if shard.size else None) if rank is not None]
            names = differing([prints for prints, _, _ in ranks])
            self._tell_of_counts(counts)
            self._tell_of_buffers([name for name in names if name not in counts])
            self._tell_of_padding(padded_apart([shapes for _, shapes, _ in ranks]))
            if why := next((why for _, _, why in ranks if why), None):
                self._tell_of_loss(why)

    def look_at_loss(self, loss: Tensor, shards: Sequence[Shard]) -> None:
        """Tell of a loss that is not a mean over samples, before its backward pass."""
        sizes = {shard.size for shard in shards}
        is_past = self._num_watched["training_step"] >= NUM_STEPS
        if not is_past and (line := self._gathers.what_is_lost(loss, self._model)):
            self._tell(line)
        if is_past or len(sizes) != 1 or hasattr(self._model, MEAN_OVER):
            return
        whole, size = shards[0].global_size, sizes.pop()
        is_automatic = self._model.automatic_optimization
        accumulated = self._model.trainer.accumulate_grad_batches if is_automatic else 1
        if size > 1 and (why := why_no_mean(loss, size, whole, accumulated)):
            self._no_mean = why
            self._tell_of_loss(why)

    def forget_random_states(self) -> None:
        """Those that an evaluation changes, which may come between two training steps."""
        self._after = "", None

    def look_at_code(self, trainer: Trainer) -> None:
        """Tell of what is not right on several processes, whatever it is given."""
        hooked = [name for name, p in self._model.named_parameters() if p._backward_hooks]
        if hooked and trainer.training:
            self._tell(
                f"hooks on the gradient of {listed(hooked)} get each process's part of it, so to "
                "clip it there depends on the number of devices: do that in "
                "`on_before_optimizer_step`"
            )
        if asking := asks_for_devices(trainer):
            self._tell(
                f"{listed(asking)}: a batch_size is that of the global batch here, and the "
                "strategy splits it, so batch sizes, learning rates and data should not depend on "
                "the number of devices"
            )

    def tell_of_gathering(self, hook: str, shard: Shard, world_size: int) -> None:
        """Tell that what a step gathers comes of unequal parts."""
        sizes = ", ".join(map(str, shard_sizes(shard.global_size, world_size)))
        self._tell(
            f"{type(self._model).__name__}.{hook}: all_gather gives one value of each process, and "
            f"these have {sizes} samples of the batch: weigh means by that, or they depend on the "
            "number of devices",
            subject="all_gather",
        )

    def tell_of_training_apart(self, names: list[str]) -> None:
        """Tell of what a callback trains by itself, or a hook moves, if not as a step did."""
        if not (names := [name for name in names if name not in self._written]):
            return
        self._written.update(names)
        self._tell(
            f"{listed(names)}: each process trains it on its own samples, so it depends on the "
            "number of devices: have the model train it, or average its gradients; sum up by "
            "`self.all_gather` what moves a codebook"
        )

    @contextmanager
    def watch_spare(self, shard: Shard, world_size: int) -> Iterator[None]:
        """Tell of what keeps count in a training step that ranks without samples run as well."""
        lengths = dict(lists_in(self._model))
        sums: dict[str, None] = {}
        with sums_told(lambda: sums.update({f"all_reduce in {self._step}": None})):
            yield
        lists = [name for name, length in lists_in(self._model) if length > lengths.get(name, 0)]
        hooks = [
            f"{type(owner).__name__}.{hook}"
            for hook in ("on_train_batch_start", "on_train_batch_end")
            for owner in (self._model, *self._model.trainer.callbacks)  # type: ignore[attr-defined]
            if has_hook(owner, hook) and not _is_known(getattr(owner, hook))
        ]
        if may_count := [*sums, *lists, *hooks]:
            self._tell(
                f"a training batch of {shard.global_size} leaves some of {world_size} processes "
                "without samples: they run it as well, with weight 0. What counts samples in "
                f"{listed(may_count)} counts them again: use drop_last=True, or another batch "
                "size",
                subject="spare",
            )

    def tell_of_idleness(self, hook: str, shard: Shard, world_size: int) -> None:
        """Tell of an evaluation in which some ranks may have nothing at all."""
        self._tell(
            f"{hook}: a batch of {shard.global_size} leaves some of {world_size} processes without "
            "samples, also in hooks at the epoch's end: use a batch_size of at least as many",
            subject=f"idle in {hook}",
        )

    def _own_generators(self) -> dict[str, bytes]:
        return generator_states(
            {
                f"{path}.{name}".lstrip("."): value
                for path, part in self._model.named_modules()
                for name, value in vars(part).items()
            }
        )

    def _watch_mean(self, step: str, num_samples: int) -> AbstractContextManager[None]:
        parts = self._model.modules()
        # Any `TorchFunctionMode` keeps an encoder from its fast path, which gives other values.
        if any(isinstance(part, nn.TransformerEncoder) and is_fast(part) for part in parts):
            return before(nn.TransformerEncoder, "forward", partial(tell_of_encoder, self._tell))
        says_mean = hasattr(self._model, MEAN_OVER)

        def tell(line: str) -> None:
            if not says_mean:
                self._tell(line, subject=line.removeprefix(step))

        return tells_of_weighted_means(step, num_samples, tell, self._gathers)

    def _tell_of_loss(self, why: str) -> None:
        self._tell(
            f"{self._step}: the loss {why}, so several processes may weigh it differently from one "
            "device: return a mean over the samples, or say what it is a mean over, by a method "
            f"`{MEAN_OVER}(batch)` of the model: docs/your_code.md",
            subject="no mean",
        )

    def _tell_of_counts(self, names: list[str]) -> None:
        if names:
            self._tell(
                f"{listed(names)}: a count of each process's own samples, so what goes by it "
                "depends on the number of devices: add up what `self.all_gather` gives of each "
                "batch's, or count batches",
                subject="counts",
            )

    def _tell_of_buffers(self, names: list[str]) -> None:
        self._written.update(names)
        if names:
            self._tell(
                f"{self._step} writes {listed(names)}, each process of its own samples, so its "
                f"numbers depend on the number of devices{remedy(self._model, False)}; for "
                "BatchNorm on GPUs: --sync_batchnorm",
                subject="buffers",
            )

    def _tell_of_padding(self, lengths: list[int]) -> None:
        if lengths and not hasattr(self._model, MEAN_OVER):
            self._tell(
                f"{self._step}: each process pads its samples to another length ({lengths[0]} to "
                f"{lengths[-1]} in one batch), so what is computed over padded places depends on "
                "the number of devices: leave these out, or pad to one length",
                subject="padding",
            )


def remedy(model: LightningModule, predicts: bool, flags: str = "--virtual_ranks N") -> str:
    """What has a step's numbers be the same on any devices, if there is such a thing."""
    is_covered = model.automatic_optimization and not predicts
    return f" (with {flags}, on N alone)" if is_covered else ""


def random_states(devices: Sequence[torch.device]) -> tuple[Any, ...]:
    """The states of the global generators, those of GPUs among them, to be compared."""
    gpus = [device for device in devices if device.type == "cuda"]
    of_torch = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]
    of_numpy = pickle.dumps(np.random.get_state())
    return [state.numpy().tobytes() for state in of_torch], random.getstate(), of_numpy


def generator_states(values: Mapping[Key, Any]) -> dict[Key, bytes]:
    """Of what is a random generator among some values, its state."""
    states = {
        key: value.get_state().numpy().tobytes()
        for key, value in values.items()
        if isinstance(value, torch.Generator)
    }
    others = (random.Random, np.random.Generator, np.random.RandomState)
    return states | {k: pickle.dumps(v) for k, v in values.items() if isinstance(v, others)}


def _is_known(hook: Any) -> bool:
    """Whether a hook is Lightning's, or this project's."""
    return (getattr(hook, "__module__", None) or "").startswith(("lightning.", "lightning_app."))
