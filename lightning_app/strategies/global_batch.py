"""What this project's strategies share: loaders that give shards, and steps that know theirs."""

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.strategies import Strategy
from typing_extensions import override

from lightning_app import inside
from lightning_app.strategies.batch.batch_size import num_rows
from lightning_app.strategies.batch.loss_weight import MEAN_OVER
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.batch.transfer import DirectTransfer
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.loaders.loader import check_not_split, may_pad, shard_loader
from lightning_app.strategies.loaders.passes import Batches, Pass
from lightning_app.strategies.loaders.whole import WholeBatches


def run_seed(strategy: Strategy) -> int:
    """What the order of samples is seeded by, the same on every rank.

    That is what `seed_everything` was called with; or, as without this project, torch's seed, which
    is another in each run that sets none.
    """
    return strategy.broadcast(int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed())))


def check_may_skip(trainer: Trainer) -> None:
    """Refuse that a step of several processes returns nothing.

    Raises:
        MisconfigurationException: The others would wait for its gradients.
    """
    if trainer.world_size > 1 and trainer.lightning_module.automatic_optimization:
        raise MisconfigurationException(
            f"training_step returned no loss, and one of {trainer.world_size} processes cannot "
            "skip a step: return the loss times 0"
        )


class GlobalBatch(DirectTransfer, Strategy):
    """Splits loaders, and runs each step with what is known of its batch.

    What a step logs counts as many samples as the loader asked for, which Lightning guesses from
    the shape of the first tensor it finds.

    Attributes:
        step_weight: What this rank's loss of the last training step counts in a mean over all
            samples.
        num_samples: Of this process's part of the last step's batch, where that is known.
    """

    step_weight: float = 1.0
    num_samples: int | None = None
    _seed: int | None = None

    @override
    def setup(self, trainer: Trainer) -> None:
        inside.check_names(trainer)
        self._tell = TellOnce()  # of this run
        super().setup(trainer)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        if isinstance(self.precision_plugin, DoublePrecision):
            # Lightning does it later; until then they are float32, and would be rounded.
            self.precision_plugin.convert_module(self._trainer.lightning_module)
        super().load_model_state_dict(checkpoint, strict)

    @cached_property
    def _tell(self) -> TellOnce:
        return TellOnce()

    @property
    def _trainer(self) -> Trainer:
        assert self.lightning_module is not None
        return self.lightning_module.trainer

    @override
    def process_dataloader(self, dataloader: object) -> object:
        check_not_split(dataloader)
        trainer = self._trainer
        skips_idle = not trainer.training
        rank, world_size = int(self.global_rank), int(self.world_size)  # type: ignore[attr-defined]
        seed = self._run_seed()
        loader = shard_loader(dataloader, rank, world_size, seed, trainer, skips_idle)
        leaves_out_padding = hasattr(self.lightning_module, MEAN_OVER)
        if world_size > 1 and not leaves_out_padding and may_pad(loader):
            loader.sharding.whole = WholeBatches(self._tell)
            size = loader.sharding.full_size or world_size
            if trainer.predicting and size < world_size:  # an evaluation tells more of it
                self._tell(
                    f"predict: a batch of {size} gives each of {world_size} processes one sample "
                    "at most, which a `collate_fn` that pads to the longest pads by itself: use a "
                    "batch_size of at least as many, if predictions depend on padding",
                    subject="small in predict",
                )
        return loader

    def _run_seed(self) -> int:
        """What the order of samples is seeded by, the same on every rank."""
        if self._seed is None:
            self._seed = run_seed(self)
        return self._seed

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        output = self._run("training_step", super().training_step, args, kwargs)
        if output is None:
            check_may_skip(self._trainer)
        return output

    @override
    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._run("validation_step", super().validation_step, args, kwargs)

    @override
    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._run("test_step", super().test_step, args, kwargs)

    def _run(
        self, hook: str, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a step; `hook` is its name."""
        shards, self.num_samples = self._current_shards(), None
        if not shards or shards[0].is_ready_made:  # the loader has not asked for so many samples
            size = (num_rows(args[0], 0) if args else 0) or 1
        else:
            size = shards[0].global_size  # whatever rows they are in
            if len(shards) == 1 and self._has_one_loader():
                self._tell_size(self._trainer, args[0], shards[0])
        if hook == "training_step":
            self.step_weight = size
        return step(*args, **kwargs)

    def _current_shards(self) -> list[Shard]:
        """This rank's parts of the batch that the running loop has taken last, by loader."""
        return [p.shard for p in self._passes() if p.shard is not None]

    def _passes(self) -> list[Pass]:
        if self._lightning_module is None:
            return []
        iterators = inside.running_iterators(self._lightning_module.trainer)
        return [i.its_pass for i in iterators if isinstance(i, Batches)]

    def _has_one_loader(self) -> bool:
        return len(inside.running_iterators(self._trainer)) == 1

    def _full_size(self) -> int | None:
        """Samples of a full batch of the running loop's loader, if it has one size."""
        sizes = {p.shards.full_size for p in self._passes()}
        return sizes.pop() if len(sizes) == 1 else None

    def _tell_size(self, trainer: Trainer, batch: Any, shard: Shard) -> int:
        """Have what the step logs count as many samples as there are; also gives their number."""
        num_asked = shard.size or shard.global_size  # a rank without samples runs all of them
        self.num_samples = size = num_rows(batch, num_asked)
        results = inside.results(trainer)
        if results is not None:
            results.batch_size = size
        return size
