"""`train.py plan`: what a run would be on hardware that is not here, or one step of one rank of it.

The model and the data are made as for `fit`; the Trainer is not.
"""

import shlex
from typing import Any

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch.utils.data import BatchSampler, DataLoader
from typing_extensions import override

from lightning_app.cli.command_line import CommandLine
from lightning_app.cli.layout import count_devices
from lightning_app.cli.one_rank import SILENT, step_of_rank
from lightning_app.errors import UsageError
from lightning_app.limits import PLANNED_RANKS
from lightning_app.strategies import splits_batches
from lightning_app.strategies.loaders.loader import check_not_split, shard_loader
from lightning_app.telemetry.plan import Plan, kept_bytes, lines

_OF_LAUNCHERS = ("--devices", "--num_nodes")
_DTYPES = {"64": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}


class PlanLine(CommandLine):
    """Parses a command line for `fit`, and tells what it would do.

    Args:
        arguments: What follows `plan`.
    """

    def __init__(self, arguments: list[str], given: list[str]) -> None:
        self._given = given
        super().__init__("fit", arguments)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--rank",
            type=int | None,
            default=None,
            help="Run one step of this rank, without others.",
        )

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        asked = self._get(self.config_init, "trainer")
        per_node, num_nodes = count_devices(asked.devices) or 1, asked.num_nodes
        if num_nodes < 1:
            raise UsageError(f"--num_nodes {num_nodes}: it must be 1 or more")
        if per_node * num_nodes > PLANNED_RANKS:
            raise UsageError(f"plan: at most {PLANNED_RANKS:,} ranks, not {per_node * num_nodes:,}")
        if asked.accumulate_grad_batches < 1:
            raise UsageError(
                f"--accumulate_grad_batches {asked.accumulate_grad_batches}: it must be 1 or more"
            )
        if self._own("virtual_ranks") is not None or not splits_batches(asked.strategy):
            raise UsageError("plan: it is for ddp: leave out --virtual_ranks and other strategies")
        rank, world_size = self._own("rank"), per_node * num_nodes
        if rank is not None and not 0 <= rank < world_size:
            raise UsageError(f"--rank {rank}: the ranks are 0 to {world_size - 1}")
        limits = {name: asked[name] for name in ("limit_train_batches", "overfit_batches")}
        trainer = Trainer(accelerator="cpu", devices=1, **limits, **SILENT)  # refuses wrong ones
        if rank is None:
            source = self.datamodule if self.datamodule is not None else self.model
            told = ("--rank", *_OF_LAUNCHERS) if num_nodes > 1 else ("--rank",)
            arguments = shlex.join(without(told, self._given))
            for line in lines(plan_of(self.model, source, per_node, asked, arguments)):
                print(line)
        else:
            print(step_of_rank(self.model, self.datamodule, rank, per_node, num_nodes))
        return trainer

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """It has been told."""


def plan_of(model: LightningModule, source: Any, per_node: int, asked: Any, arguments: str) -> Plan:
    """The sizes of a run of a model on data.

    Args:
        model: As it begins.
        source: Whose `train_dataloader` gives the samples.
        per_node: Ranks on each host.
        asked: The Trainer's flags.
        arguments: The command line, without what a launcher tells.

    Raises:
        UsageError: The loader cannot be split.
    """
    for name, dtype in _DTYPES.items():
        if str(asked.precision).startswith(name):
            model.to(dtype)
    source.prepare_data()
    source.setup("fit")
    loader = source.train_dataloader()
    if not isinstance(loader, DataLoader) or sized_len(loader.dataset) is None:
        raise UsageError(f"plan: {type(loader).__name__} does not tell how many samples it has")
    check_not_split(loader)
    batch_size, num_batches, num_samples = _epoch(loader, per_node * asked.num_nodes, asked)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return Plan(
        asked.num_nodes,
        per_node,
        batch_size,
        num_samples,
        num_batches,
        sum(p.numel() * p.element_size() for p in model.parameters()),
        trained,
        _optimizers(model),
        arguments,
        asked.accumulate_grad_batches,
    )


def _epoch(
    loader: DataLoader[Any], world_size: int, asked: Any
) -> tuple[int | None, int, int | None]:
    """Samples of a batch, batches and samples of an epoch; `None` for what nothing tells."""
    shards: Any = shard_loader(loader, 0, world_size)
    num_batches, batch_size = len(shards), shards.sharding.full_size
    num_samples = sized_len(loader.dataset)
    if type(loader.batch_sampler) is BatchSampler:
        num_samples = sized_len(loader.batch_sampler.sampler)
    elif num_samples and batch_size and num_batches != -(-num_samples // batch_size):
        num_samples = None  # it makes batches of some of them, or of other sizes
    limit = asked.limit_train_batches  # a number of batches, or a part of them
    limit = asked.fast_dev_run or asked.overfit_batches or (1.0 if limit is None else limit)
    is_part = isinstance(limit, float)
    num_batches = int(num_batches * limit) if is_part else min(num_batches, int(limit))
    if batch_size is None or num_samples is None:
        return batch_size, num_batches, None
    batch_size = min(batch_size, num_samples)
    return batch_size, num_batches, min(num_samples, num_batches * batch_size)


def _optimizers(model: LightningModule) -> dict[str, int | None]:
    """What each optimizer keeps; nothing where they cannot be made without a run."""
    try:
        made: Any = model.configure_optimizers()
    except Exception:  # it may ask the Trainer for what only a run knows
        return {"the optimizer": None}
    found: dict[str, int | None] = {}
    for part in made if isinstance(made, (list, tuple)) else [made]:
        optimizer = part.get("optimizer") if isinstance(part, dict) else part
        if isinstance(optimizer, torch.optim.Optimizer):
            groups = optimizer.param_groups
            weights = sum(p.numel() * p.element_size() for group in groups for p in group["params"])
            options = {k: groups[0].get(k, 0) for k in ("momentum", "amsgrad")}
            name = type(optimizer).__name__
            found[name] = kept_bytes(name, weights, **options)
    return found


def without(flags: tuple[str, ...], arguments: list[str]) -> list[str]:
    """A command line without some flags, and their values."""
    kept: list[str] = []
    skips = False
    for argument in arguments:
        flag = argument.partition("=")[0].replace("--trainer.", "--")
        if skips and not argument.startswith("--"):
            skips = False
            continue
        skips = flag in flags and "=" not in argument
        if flag not in flags:
            kept.append(argument)
    return kept
