"""A run's layout in words: on the console, in TensorBoard, in tables."""

from lightning.pytorch import Trainer

from lightning_app import inside, strategies
from lightning_app.strategies.batch.sharding import chunk_sizes, shard_sizes
from lightning_app.strategies.dp.strategy import DataParallelStrategy
from lightning_app.strategies.virtual import NUM_THREADS, VirtualRanks
from lightning_app.telemetry.many_ranks import sum_in_words


def describe_layout(trainer: Trainer) -> str:
    """One line with the layout and the split, like `2 CPU processes, ddp, global batch 30 = …`."""
    loaders = inside.running_loaders(trainer)
    splits = strategies.splits_batches(trainer.strategy) and len(loaders) == 1
    shards = inside.sharding_of(loaders[0]) if splits else None
    batch = None if shards is None else shards.batch_size
    ranks, device = num_ranks(trainer), _device_type(trainer).upper()
    replicas = isinstance(trainer.strategy, DataParallelStrategy)
    number = ranks if replicas else trainer.world_size
    kind = "replica" if replicas else "process"
    plural = "" if number == 1 else "s" if replicas else "es"
    line = f"{number} {device} {kind}{plural}, {_strategy_name(trainer)}"
    if isinstance(trainer.strategy, VirtualRanks):
        threads = f"{NUM_THREADS} CPU thread" + " each" * (number > 1)
        line += f", {ranks} virtual rank{'s' * (ranks > 1)}, {threads}"
    if batch is None:
        return line
    parts = chunk_sizes(batch, ranks) if replicas else shard_sizes(batch, ranks)
    return f"{line}, global batch {batch}" + (f" = {sum_in_words(parts)}" * (ranks > 1))


def run_name(trainer: Trainer) -> str:
    """A short name of the layout, like `ddp-2xcpu`, or `1xcpu` where nothing is split."""
    devices = f"{num_ranks(trainer)}x{_device_type(trainer)}"
    is_split = num_ranks(trainer) > 1
    if isinstance(trainer.strategy, VirtualRanks):
        devices = f"{trainer.world_size}x{_device_type(trainer)}-{num_ranks(trainer)}-virtual"
        is_split = trainer.world_size > 1
    return f"{_strategy_name(trainer)}-{devices}" if is_split else devices


def num_processes(trainer: Trainer) -> str:
    """How many processes the run has, in words."""
    return "1 process" if trainer.world_size == 1 else f"{trainer.world_size} processes"


def num_ranks(trainer: Trainer) -> int:
    """The world size: processes, replicas under `dp`, or virtual ranks."""
    strategy = trainer.strategy
    if isinstance(strategy, VirtualRanks):
        return strategy.virtual_ranks
    if isinstance(strategy, DataParallelStrategy):
        return len(strategy.parallel_devices)
    return trainer.world_size


def _strategy_name(trainer: Trainer) -> str:
    name: str = getattr(trainer.strategy, "strategy_name", type(trainer.strategy).__name__)
    return name


def _device_type(trainer: Trainer) -> str:
    return trainer.strategy.root_device.type.replace("cuda", "gpu")
