"""`train.py plan`: what a run would be on hardware that is not here, or one step of one rank of it.

The model and the data are made as for `fit`; the Trainer is not.
"""

import shlex
from typing import Any

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_app.cli.command_line import CommandLine
from lightning_app.cli.layout import count_devices
from lightning_app.cli.one_rank import SILENT, step_of_rank
from lightning_app.errors import UsageError
from lightning_app.strategies.loader import shard_loader
from lightning_app.telemetry.plan import Plan, kept_bytes, lines

_PLACES = ("--devices", "--num_nodes", "--rank", "--strategy", "--accelerator")


class PlanLine(CommandLine):
    """Parses a command line for `fit`, and tells what it would do.

    Args:
        arguments: What follows `plan`.
    """

    def __init__(self, arguments: list[str], given: list[str]) -> None:
        self._arguments = without_places(given)
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
        if self._own("virtual_ranks") is not None or asked.strategy == "dp":
            raise UsageError("plan: it is for ddp: leave out --virtual_ranks and --strategy dp")
        rank, world_size = self._own("rank"), per_node * num_nodes
        if rank is not None and not 0 <= rank < world_size:
            raise UsageError(f"--rank {rank}: there are {world_size} ranks, from 0 up")
        trainer = Trainer(accelerator="cpu", devices=1, **SILENT)
        if rank is None:
            source = self.datamodule if self.datamodule is not None else self.model
            for line in lines(plan_of(self.model, source, per_node, num_nodes, self._arguments)):
                print(line)
        else:
            print(step_of_rank(self.model, self.datamodule, rank, per_node, num_nodes))
        return trainer

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """It has been told."""


def plan_of(
    model: LightningModule, source: Any, per_node: int, num_nodes: int, arguments: list[str]
) -> Plan:
    """The sizes of a run of a model on data.

    Args:
        model: As it begins.
        source: Whose `train_dataloader` gives the samples.
        per_node: Ranks on each host.
        num_nodes: Hosts.
        arguments: The command line, without what says where the ranks are.

    Raises:
        UsageError: The loader cannot be split.
    """
    source.prepare_data()
    source.setup("fit")
    loader = source.train_dataloader()
    if not isinstance(loader, DataLoader) or sized_len(loader.dataset) is None:
        raise UsageError(f"plan: {type(loader).__name__} does not tell how many samples it has")
    shards: Any = shard_loader(loader, 0, per_node * num_nodes)
    batch_size = shards.sharding.batch_size
    num_samples = sized_len(loader.dataset) or 0
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return Plan(
        num_nodes,
        per_node,
        batch_size,
        num_samples,
        len(shards),
        sum(p.numel() * p.element_size() for p in model.parameters()),
        trained,
        _optimizers(model),
        shlex.join(arguments),
    )


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


def without_places(arguments: list[str]) -> list[str]:
    """A command line without what says where the ranks are, which the launcher tells."""
    kept: list[str] = []
    skips = False
    for argument in arguments:
        flag = argument.partition("=")[0].replace("--trainer.", "--")
        if skips and not argument.startswith("--"):
            skips = False
            continue
        skips = flag in _PLACES and "=" not in argument
        if flag not in _PLACES:
            kept.append(argument)
    return kept
