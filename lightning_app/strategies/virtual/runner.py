"""Runs this process's parts of a global batch, and puts together what all parts have given."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_app import inside
from lightning_app.strategies.batch.loss_weight import MEAN_OVER, mean_over
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.alone import Alone
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.logs.batch_means import BatchMeans
from lightning_app.strategies.virtual import refused
from lightning_app.strategies.virtual.attributes import Attributes
from lightning_app.strategies.virtual.buffers import Buffers, Result
from lightning_app.strategies.virtual.exchange import Exchange
from lightning_app.strategies.virtual.gradients import Flat, Gradients, add
from lightning_app.strategies.virtual.part_logs import PartLogs
from lightning_app.strategies.virtual.passes import Split
from lightning_app.strategies.virtual.step import (
    Done,
    Note,
    Shares,
    joined_output,
    mean_loss,
    run_part,
)
from lightning_app.strategies.virtual.streams import given_back
from lightning_app.strategies.virtual.tree import Node, tree_sum, whole_nodes


class Asked(NamedTuple):
    """A step that the Trainer asks for.

    Attributes:
        hook: Its name.
        step: Runs the model's step on the batch of a part.
        split: How the global batch is split.
        batches: Those of this process's parts, by their numbers.
        begin_streams: Begins the random streams of a part.
    """

    hook: str
    step: Callable[[Any], Any]
    split: Split
    batches: dict[int, Any]
    begin_streams: Callable[[int], None]


class Runner:
    """Runs one step after the other.

    Args:
        trainer: Whose; its model is on its device.
        tell: Tells a line.
        alone: Is told when parts run.
        num_parts: How many virtual ranks there are.

    Attributes:
        exchange: Connects the processes.
    """

    def __init__(self, trainer: Trainer, tell: TellOnce, alone: Alone, num_parts: int) -> None:
        self._trainer, self._model = trainer, trainer.lightning_module
        self._alone = alone
        self._device = trainer.strategy.root_device
        self.exchange = Exchange(self._device)
        self._buffers = Buffers(self._model, tell)
        self._attributes = defaultdict[str, Attributes](lambda: Attributes(self._model, tell))
        self._logs = PartLogs(trainer)
        self._objects = BatchMeans(tell, num_parts)
        self._summed: tuple[Gradients, Flat] | None = None  # of the last training step

    def run(self, asked: Asked) -> Any:
        """Run a step; give what the Trainer gets for its output."""
        split = asked.split
        told = {part: mean_over(self._model, batch) for part, batch in asked.batches.items()}
        is_training, done = asked.hook == "training_step", Done()
        is_first = inside.is_first_batch(self._trainer)
        shares = self._shares(split, told)
        # As each of V ranks has it, of whose gradients the mean is taken: hooks see it.
        weights = [share * split.num_parts for share in shares]
        learns = is_training and not inside.skips_backward(self._trainer)
        gradients = self._new_gradients() if learns else None

        def run(part: int) -> None:
            asked.begin_streams(part)
            backward = partial(self._backward, weights[part], learns) if is_training else None
            batch, size = asked.batches[part], split.part_size(part)
            self._objects.before_step(self._model, is_first)
            run_part(self._model, asked.step, batch, part, size, told[part], backward, done)
            shard = Shard(range(split.size), *split.bounds(part))
            self._objects.after_step(shard, shares[part], split.full_size)

        world_size = self.exchange.world_size
        nodes = [whole_nodes(split.own(rank), split.filled) for rank in range(world_size)]
        own = nodes[self.exchange.rank]
        sums, first_buffers = self._run_parts(own, run, gradients, asked.hook)
        notes = self._share(done, gradients, first_buffers)
        if gradients is not None:
            whole = self._sum(sums, nodes, split.filled, gradients)
            self._summed = gradients, [total.div_(split.num_parts) for total in whole]
        self._log(notes, done, split)
        if is_training:
            return joined_output(done, mean_loss(notes, shares).to(self._device))
        return done.outputs if any(output is not None for output in done.outputs) else None

    def grown(self) -> list[str]:
        """The names of containers that steps have put something in, or taken from."""
        return list({name: None for one in self._attributes.values() for name in one.grown})

    def settle(self) -> None:
        """Have objects that were given means of parts count batches; all processes call this."""
        self._objects.settle(self._model)

    def place_gradients(self) -> None:
        """Make the parameters' gradients those of the last training step, or add them."""
        assert self._summed is not None
        gradients, sums = self._summed
        self._summed = None
        gradients.place(sums)

    def _shares(self, split: Split, told: dict[int, float | None]) -> Shares:
        """What each part counts in the mean of the step."""
        numbers = [float(split.part_size(part)) for part in split.filled]
        if hasattr(self._model, MEAN_OVER):
            counts = {part: n for own in self.exchange.gather(told) for part, n in own.items()}
            over = [counts[part] or 0.0 for part in split.filled]
            numbers = over if any(over) else numbers  # else NaN, or what the model makes of nothing
        return [n / sum(numbers) for n in numbers]

    def _new_gradients(self) -> Gradients:
        refused.check_parameters(self._model)
        return Gradients(self._model.parameters(), self.exchange.world_size)

    def _run_parts(
        self,
        nodes: list[Node],
        run: Callable[[int], None],
        gradients: Gradients | None,
        hook: str,
    ) -> tuple[list[Flat], Result]:
        """Run this process's parts; give the sums of its nodes, and the first part's buffers."""
        first_buffers: Result = []
        attributes = self._attributes[hook]

        def leaf(node: Node) -> Flat | None:
            nonlocal first_buffers
            if len(node) > 1:
                return None
            if node.start != nodes[0].start:
                self._buffers.put_back()
            run(node.start)
            attributes.part_ended()
            self._buffers.part_ended()
            if node.start == 0:
                first_buffers = self._buffers.result()
            return [] if gradients is None else gradients.take()

        self._buffers.begin(hook)
        attributes.begin()
        try:
            with (
                self._alone.in_step(),
                given_back(self._device),
                refused.refused_by_determinism(),
            ):
                sums = [tree_sum(node, leaf, add) for node in nodes]
        finally:
            if gradients is not None:
                gradients.give_back()
        self._buffers.end_with(first_buffers)
        attributes.end()
        return sums, first_buffers

    def _backward(self, weight: float, learns: bool, loss: Tensor) -> None:
        """The backward pass of a part's mean loss; none of what counts nothing, and may be NaN."""
        if learns and weight:
            weighed = loss / self._trainer.accumulate_grad_batches * weight
            precision = self._trainer.precision_plugin
            scaler = getattr(precision, "scaler", None)
            weighed = weighed if scaler is None else scaler.scale(weighed)
            precision.backward(weighed, self._model, self._trainer.optimizers[0])

    def _share(self, done: Done, gradients: Gradients | None, first_buffers: Result) -> list[Note]:
        """Tell the other processes what the parts have given; all parts' notes, in order."""
        changed = [(name, t.shape, t.dtype) for name, t, _ in first_buffers if t is not None]
        missing = set() if gradients is None else gradients.missing
        ranks = self.exchange.gather((done.notes, missing, changed, self._buffers.moved))
        if gradients is not None:
            gradients.missing = set.intersection(*(missing for _, missing, *_ in ranks))
        self._buffers.moved = set.union(*(moved for *_, moved in ranks))
        self.exchange.broadcast([self._buffers.at(*of_first) for of_first in ranks[0][2]])
        return [note for notes, *_ in ranks for note in notes.values()]

    def _sum(
        self, sums: list[Flat], nodes: list[list[Node]], root: Node, gradients: Gradients
    ) -> Flat:
        by_dtype = zip(*(sums or [gradients.zeros()]), strict=True)
        return [self.exchange.sum(list(own), nodes, root) for own in by_dtype]

    def _log(self, notes: list[Note], done: Done, split: Split) -> None:
        told = [note.mean_over for note in notes if note.mean_over is not None]
        # A single row may hold all samples, one behind the other: it is not one of the samples.
        asked = map(split.part_size, split.filled)
        rows = [note.num_samples for note in notes]
        sizes = [float(n if n > 1 else size) for n, size in zip(rows, asked, strict=True)]
        logged = [note.logged for note in notes]
        self._logs.merge(logged, sizes, split.full_size, told or None, done.objects)
        inside.results(self._trainer).batch_size = split.size  # for what later hooks log
