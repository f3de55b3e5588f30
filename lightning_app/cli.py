"""The command line: argv → Trainer, model and data; every user error ends here, in one line.

It is Lightning's own CLI, with four differences: no subcommand means `fit`; the Trainer's flags
also work without `--trainer.`, booleans also without a value; the layout asked for is resolved
into one this machine has; a model and data come along.
"""

import logging
import re
import shutil
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from typing_extensions import override

from lightning_app import strategies
from lightning_app.checkpoint import (
    LAST,
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    find_checkpoint,
    is_whole,
)
from lightning_app.console import Console
from lightning_app.dashboard import RunLogger
from lightning_app.layout import Layout, resolve
from lightning_app.loss import LossLogger
from lightning_app.shapes import ShapeLogger

SUBCOMMANDS = ("fit", "validate", "test", "predict")


class UsageError(Exception):
    """Something the user got wrong: the value, what is allowed, the remedy, in one line."""


def main() -> None:
    """Run this process's command line.

    Raises:
        SystemExit: With status 2, after one line on stderr, if the user got something wrong.
    """
    if len(sys.argv) < 2 or sys.argv[1] not in SUBCOMMANDS:
        # Where it belongs, because `ddp` starts its processes with the same arguments.
        sys.argv.insert(1, "fit")
    strategies.register()
    _quieten()
    try:
        CommandLine()
    except (ArgumentError, MisconfigurationException, UsageError) as error:
        if rank_zero_only.rank == 0:
            print(f"train.py: error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


class CommandLine(LightningCLI):
    """Parses this process's command line and runs it."""

    def __init__(self) -> None:
        super().__init__(
            trainer_defaults={"max_epochs": 10, "enable_model_summary": False},
            save_config_kwargs={"overwrite": True},  # only a continued run finds one
            seed_everything_default=42,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_kwargs={"exit_on_error": False, sys.argv[1]: {"exit_on_error": False}},
        )

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Only the one that is called: each costs a parser of every flag."""
        return {sys.argv[1]: LightningCLI.subcommands()[sys.argv[1]]}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults(
            {
                "model": {"class_path": "lightning_app.model.LinearModule"},
                "data": {"class_path": "lightning_app.data.RandomDataModule"},
            }
        )
        for size in ("input_size", "output_size"):
            parser.link_arguments(f"data.init_args.{size}", f"model.init_args.{size}")
        _add_short_flags(parser)

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(str(error)) from error

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        asked = self._get(self.config_init, "trainer")
        layout, warning = resolve(
            Layout(asked.accelerator, asked.devices, asked.num_nodes, asked.strategy),
            torch.cuda.device_count(),
            MPSAccelerator.is_available(),
        )
        if warning:
            rank_zero_only(print)(warning, file=sys.stderr)
        kwargs |= vars(layout)
        if strategies.splits_batches(layout.strategy):
            kwargs["use_distributed_sampler"] = False
        if asked.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        if asked.logger in (None, True):
            kwargs["logger"] = RunLogger(asked.default_root_dir or ".")
        if not any(isinstance(plugin, CheckpointIO) for plugin in asked.plugins or []):
            kwargs["plugins"] = [*(asked.plugins or []), AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    @override
    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        callbacks += [ShapeLogger(), LossLogger(), Console()]
        if config["enable_checkpointing"] is not False:
            callbacks += [BestCheckpoint(), LastCheckpoint()]
        if config["enable_progress_bar"]:
            callbacks.append(RichProgressBar(refresh_rate=20))
        return super()._instantiate_trainer(config, callbacks)


def _add_short_flags(parser: LightningArgumentParser) -> None:
    """`--devices` for `--trainer.devices`, and `--fast_dev_run` for `--fast_dev_run true`."""
    for action in list(parser._actions):
        for name in [o for o in action.option_strings if o.startswith("--trainer.")]:
            short = "--" + name.removeprefix("--trainer.")
            action.option_strings.append(short)
            parser._option_string_actions[short] = action
            if "bool" in str(getattr(action, "_typehint", "")):
                action.nargs, action.const = "?", True


def _quieten() -> None:
    """No advertisements, and no advice that does not hold here."""
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.seed", "fabric.utilities.distributed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",  # the epoch's end is logged as well
        ".*LeafSpec.*deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
