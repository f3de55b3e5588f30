"""Counts what each epoch really visited, over all ranks, and tells what was missed or repeated.

Both come from the very pass that is trained on: what the sampler gave for a batch should be visited
once, by one of the ranks. Ranks whose samplers disagree, a split that loses or doubles samples, and
a run that is continued at another place than it stopped, are seen by this. What `drop_last`,
`limit_train_batches` or the end of the run leave out is not missing: it was not asked for. With
Lightning's own `DDPStrategy`, by class path, the samples that its sampler repeats to fill the last
batch are counted as what they are.

Costs a note per step. The first rank takes off what other ranks should visit, and they count what
they do: four bytes a sample on each of several ranks, none on one alone. At each epoch's end and
each checkpoint the ranks add up how many there were, and two sums of hashes: where these come to
nothing, nothing is missing. Only where they do not, the counts of all samples are added up.

Not covered: streams and other loaders without indices, and several training loaders at once. Where
a run is continued with other samples before its place than were trained on, but as many, it is not
known which: all of them are told as missing, and as repeated.
"""

from collections import Counter
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from lightning_app import strategies
from lightning_app.inside import give_back, is_in_step, last_step, put
from lightning_app.own_part import own_part
from lightning_app.processes.collectives import gather_objects
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.global_batch import run_seed
from lightning_app.strategies.loaders.loader import ShardedLoader, shard_loader
from lightning_app.strategies.loaders.passes import Pass
from lightning_app.telemetry.metrics import Smooths, log
from lightning_app.telemetry.tally import MAX_NUMBER, Tally, fingerprint_of

MAX_NOTES = 64  # batches that are counted at once


class Coverage(Callback):
    """Logs `coverage/missing` and `coverage/repeated` at each epoch's end; both should be 0."""

    def __init__(self) -> None:
        self._shards: list[Shard]  # noted, and not yet counted
        self._pass: Pass | None = None
        self._loader: ShardedLoader | None = None
        self._is_first = True
        self._tell = TellOnce()
        self._is_foreign = False  # the ranks' samplers have a plan each
        self._limit = MAX_NUMBER
        self._saved_in: int | None = None  # the epoch of the checkpoint that is continued
        self._start()

    def _start(self) -> None:
        """Begin an epoch."""
        self._shards = []
        self._balance = Tally(self._limit)  # on the first rank, less what the others should visit
        self._sums = fingerprint_of([])  # of the same
        self._planned = fingerprint_of([])  # on the first rank: of what all should have visited
        self._before: Tensor | None = None  # such sums, of the run that is continued
        self._was_uneven = False  # that run
        self._moved = 0, 0  # missing and repeated, as it is continued at another place

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_first = trainer.is_global_zero
        if not strategies.splits_batches(trainer.strategy):
            _observe_loaders(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch(trainer)
        saved_in, self._saved_in = self._saved_in, None
        if saved_in not in (None, trainer.current_epoch):
            self._start()  # its epoch had come to its end, but for the hooks

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch(trainer)
        # Not at the epoch's end, which may be in mid-epoch: it is saved then.
        self._start()
        self._pass = None

    def _watch(self, trainer: Trainer) -> None:
        """Listen to the training loader, of which an epoch may have a new one."""
        loader: Any = trainer.train_dataloader
        if loader is not self._loader and isinstance(loader, ShardedLoader):
            self._loader = loader
            self._is_foreign = isinstance(loader.sampler, DistributedSampler)
            loader.sharding.listeners.append(self._note)
            self._limit = max(MAX_NUMBER, 4 * (sized_len(loader.dataset) or 0))
            self._balance.limit = self._limit

    def _note(self, its_pass: Pass, shard: Shard) -> None:
        if its_pass is not self._pass:
            self._pass = its_pass
            self._continue(its_pass)
        if len(self._shards) >= MAX_NOTES:
            self._count()
        self._shards.append(shard)

    def _continue(self, its_pass: Pass) -> None:
        """See that a pass leaves out what the run that it continues was trained on."""
        if self._is_first and not self._is_foreign:
            left_out, batches = fingerprint_of([]), iter(its_pass.left_out)
            while some := list(islice(batches, MAX_NOTES)):
                left_out += fingerprint_of(some)
            before = left_out if self._before is None else self._before
            num_left_out, num_before = int(left_out[0]), int(before[0])
            if num_left_out != num_before:
                more = num_left_out - num_before
                self._moved = max(more, 0), max(-more, 0)
            elif not torch.equal(left_out, before):
                self._moved = num_before, num_before
            self._planned += before
        self._before = None
        its_pass.left_out = ()

    def _count(self) -> None:
        shards, self._shards = self._shards, []
        if self._is_foreign or not self._is_first:
            own = [shard.indices for shard in shards]
            self._sums += fingerprint_of(own)
            self._balance.add(own)
            return
        self._planned += fingerprint_of(shard.batch for shard in shards)
        around = ((s.batch[: s.start], s.batch[s.stop :]) for s in shards if not s.is_whole)
        if others := [part for parts in around for part in parts if len(part)]:
            self._sums -= fingerprint_of(others)
            self._balance.add(others, -1)

    def _look(self, trainer: Trainer) -> tuple[bool, tuple[int, int]]:
        """Whether all ranks together have visited what was planned; all of them have to call this.

        The sums of a few numbers tell it, whatever the number of samples. Also gives what the first
        rank alone knows: what is missing and repeated as the run goes on at another place.
        """
        self._count()
        strategy = trainer.strategy
        own = torch.cat([self._sums, torch.tensor([self._was_uneven, *self._moved])])
        sums = strategy.reduce(own.to(strategy.root_device), reduce_op="sum").tolist()
        *uneven, missing, repeated = sums
        return not (self._is_foreign or any(uneven)), (missing, repeated)

    def _total(self, trainer: Trainer) -> Tally:
        """What all ranks count together; all of them have to call this."""
        self._count()
        strategy, total = trainer.strategy, Tally(self._limit)
        length = torch.tensor(len(self._balance.numbers), device=strategy.root_device)
        self._balance.grow(int(strategy.reduce(length, reduce_op="max")))
        numbers = self._balance.numbers.to(strategy.root_device, copy=True)
        total.numbers = strategy.reduce(numbers, reduce_op="sum").cpu()
        for names in gather_objects(self._balance.names):
            total.names.update(names)
        total.names = Counter({name: count for name, count in total.names.items() if count})
        return total

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loader is None:
            return
        is_even, (missing, repeated) = self._look(trainer)
        if not is_even and not self._is_foreign:
            self._tell(
                "the ranks' samplers do not agree, so samples of this epoch are missing or "
                "repeated: let them draw from a seeded generator (docs/your_code.md)"
            )
        if not is_even:
            total = self._total(trainer)
            if self._is_foreign:
                if not (total.numbers.any() or total.names):
                    return  # it stops before the first step
                _take_off_plan(total, self._loader, trainer)
            more_missing, more_repeated = total.missing_and_repeated()
            missing, repeated = missing + more_missing, repeated + more_repeated
        self._log(trainer, missing, repeated)

    @staticmethod
    def _log(trainer: Trainer, missing: int, repeated: int) -> None:
        metrics: dict[str, float] = {"coverage/missing": missing, "coverage/repeated": repeated}
        trainer.callback_metrics.update({tag: torch.tensor(n) for tag, n in metrics.items()})
        is_flat = not (missing or repeated)  # a line that tells nothing
        loggers = (each for each in trainer.loggers if not (is_flat and isinstance(each, Smooths)))
        log(trainer, metrics, last_step(trainer), loggers)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._loader is None:
            return
        begun: list[Shard] = []  # a step, of which the batch comes again when the run goes on
        if is_in_step(trainer):
            self._shards, begun = self._shards[:-1], self._shards[-1:]
        is_even, _ = self._look(trainer)
        uneven = Tally() if is_even else self._total(trainer)
        planned = self._planned if self._before is None else self._before  # it has not gone on yet
        own_part(checkpoint).update(
            coverage_planned=planned.clone(),
            coverage_uneven=uneven.numbers,
            coverage_names=dict(uneven.names),
        )
        self._shards = begun

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._start()
        self._saved_in = checkpoint.get("epoch")
        own = own_part(checkpoint)
        if trainer.is_global_zero and "coverage_planned" in own:  # of all ranks
            self._before = own["coverage_planned"].clone()
            self._balance.numbers = own["coverage_uneven"].clone()
            self._balance.names.update(own["coverage_names"])
            self._was_uneven = bool(self._balance.names) or bool(self._balance.numbers.any())


def _take_off_plan(visits: Tally, loader: ShardedLoader, trainer: Trainer) -> None:
    """Of what an epoch should visit under Lightning's `DistributedSampler`.

    A whole epoch is every sample once, unless the user's own sampler is in it.
    """
    takes_all = not isinstance(loader.sampler, DistributedSamplerWrapper) and not loader.drop_last
    if trainer.fit_loop.batch_idx + 1 == len(loader) and takes_all:
        visits.add([range(len(loader.dataset))], -1)  # type: ignore[arg-type]
    else:
        visits.numbers -= visits.numbers.clamp(max=1)


def _observe_loaders(trainer: Trainer) -> None:
    """Under a strategy that is not ours, note what each rank's loader fetches."""
    strategy = trainer.strategy
    give_back(strategy, "process_dataloader")  # of another fit
    process, seed = strategy.process_dataloader, run_seed(strategy)

    def observed(dataloader: object) -> object:
        loader = process(dataloader)
        if trainer.training and isinstance(loader, DataLoader):
            return shard_loader(loader, seed=seed, trainer=trainer)
        return loader

    put(strategy, "process_dataloader", observed)
