"""The command line: argv → Trainer, model and data; every user error ends here, in one line.

It is Lightning's own CLI, with some differences: no subcommand means `fit`; the Trainer's flags
also work without `--trainer.`, booleans also without a value; the layout asked for is resolved
into one this machine has; a model and data come along.
"""

import re
import sys
from argparse import ArgumentError
from itertools import pairwise
from pydoc import locate
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.multiprocessing.spawn import ProcessRaisedException
from typing_extensions import override

from lightning_app import inside
from lightning_app.callbacks import callbacks as run_callbacks
from lightning_app.checkpoint.input import check_progress, read_checkpoint
from lightning_app.checkpoint.io import AtomicCheckpointIO
from lightning_app.checkpoint.progress import num_learnt
from lightning_app.checkpoint.weights import begin_with, check_model
from lightning_app.cli.beginning import Beginning
from lightning_app.cli.callback_flags import as_list, has_one
from lightning_app.cli.completion import print_completion
from lightning_app.cli.continuing import CONTINUE, Begun, begins_with, in_words
from lightning_app.cli.flag_values import check_run_flags, check_trainer_flags, check_value
from lightning_app.cli.flags import add_run_flags, add_short_flags, in_config_files, size_model
from lightning_app.cli.leaving import leaves_nothing_empty
from lightning_app.cli.near_misses import flags_named, last_given
from lightning_app.cli.outputs import check_outputs
from lightning_app.cli.placing import Placing
from lightning_app.cli.refusals import about_optimizer, another_rank_told, refusal
from lightning_app.cli.run_config import SaveConfigOnce
from lightning_app.cli.run_logger import run_logger
from lightning_app.cli.spawning import SpawningLauncher
from lightning_app.errors import RunError, UsageError, users_bug, what_it_says
from lightning_app.masking import first_masked
from lightning_app.model import LinearModule
from lightning_app.processes.launcher import RankLauncher
from lightning_app.speed.profiler import NoProfiler
from lightning_app.strategies.checks.refused import check_saves
from lightning_app.strategies.ddp.meeting import MeetingRanks
from lightning_app.strategies.virtual import fix_workspace
from lightning_app.telemetry.describe import num_processes
from lightning_app.telemetry.progress import RunProgress
from lightning_app.waiting import say_if_slow

DEFAULT_DATA = "--data=lightning_app.data.RandomDataModule"
DEFAULT_MAX_EPOCHS = 10
LOADERS = tuple(f"{name}_dataloader" for name in ("train", "val", "test", "predict"))


class CommandLine(LightningCLI):
    """Parses a command line and runs it.

    Args:
        subcommand: `fit`, `validate`, `test` or `predict`.
        arguments: What follows it.
    """

    def __init__(self, subcommand: str, arguments: list[str]) -> None:
        self._chosen = subcommand
        self._checkpoint: Any = None  # what is in the one that the run begins with
        with Beginning() as self._beginning:
            super().__init__(
                save_config_callback=SaveConfigOnce,
                seed_everything_default=42,
                subclass_mode_model=True,
                subclass_mode_data=True,
                parser_kwargs={"exit_on_error": False, subcommand: {"exit_on_error": False}},
                args=[subcommand, *arguments],
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the one that is called: each costs a parser of every flag."""
        return {self._chosen: LightningCLI.subcommands()[self._chosen]}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_flags(parser)
        add_short_flags(parser)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if (shell := last_given("--print_completion", args)) != "":
            print_completion(self._parser(self._chosen), shell)
            raise SystemExit
        for before, arg in pairwise(args):  # the first is the subcommand
            check_value(before, arg)
        try:
            with flags_named(self._parser(self._chosen), args):
                super().parse_arguments(parser, args)
            if not self._is_data_chosen(args):
                self._choose_data(parser, args)
        except UnicodeDecodeError as error:
            raise UsageError(f"--config: a file that is not text: {error}") from None
        except (OSError, ValueError) as error:
            if bug := users_bug(error):
                raise bug from None
            raise UsageError(what_it_says(error)) from None
        config = self.config[self._chosen]
        check_trainer_flags(config.trainer)
        check_run_flags(config)
        if config.virtual_ranks is not None:
            fix_workspace()
        size_model(config, args)
        if secret := first_masked(config):
            name = secret.replace(".init_args", "")
            raise UsageError(f"--{name} is masked, as it is in configs of runs: give its value")
        self._trusted = config.weights_only is False
        config.weights_only = not self._trusted  # for whoever would choose something else
        if config.ckpt_path and config.weights_from:
            raise UsageError("--ckpt_path and --weights_from: choose one of them")
        if config.ckpt_path == CONTINUE and self._chosen != "fit":
            raise UsageError(f"{self._chosen} --ckpt_path {CONTINUE}: use last")
        if config.ckpt_path is None and self._chosen != "fit" and config.weights_from is None:
            rank_zero_only(print)("No --ckpt_path: with the model's initial weights")

    def _is_data_chosen(self, args: list[str]) -> bool:
        given = any(re.match(r"--data(?=[.=]|$)", arg) for arg in args if arg != DEFAULT_DATA)
        return given or in_config_files("data", self.config[self._chosen].config)

    def _choose_data(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """A model that has loaders of its own is trained on them, another on the random data."""
        path = self.config[self._chosen].model.class_path
        model = locate(path)
        if not isinstance(model, type) or issubclass(model, LinearModule):
            return
        if any(is_overridden(name, model, LightningModule) for name in LOADERS):
            super().parse_arguments(parser, [arg for arg in args if arg != DEFAULT_DATA])
        else:
            told = f"No --data: {path} is given random data, 5 numbers a sample"
            self._beginning.random_data = told
            rank_zero_only(print)(f"{told}; --data CLASS names its own")

    @override
    def _parse_ckpt_path(self) -> None:
        """Lightning would have a checkpoint's hyperparameters win over the command line's."""

    @override
    def _add_instantiators(self) -> None:
        """Have hyperparameters noted as they are without a command line, where that can be.

        Lightning's would have `save_hyperparameters` in a base class note what the command line
        gives to the class below it. But objects among them are noted by their classes' paths.
        """
        config = self.config[self._chosen]
        if any(str(config.get(key)).count("class_path=") > 1 for key in ("model", "data")):
            super()._add_instantiators()

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ArgumentError, UsageError):
            raise
        except Exception as error:
            if bug := users_bug(error):
                raise bug from None
            raise UsageError(what_it_says(error)) from error

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        self._begin_with_file()
        say_if_slow(f"starting {num_processes(self.trainer)}")
        with leaves_nothing_empty(self.trainer, self._beginning):
            self._run_or_refuse(subcommand)

    def _run_or_refuse(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except (RunError, ProcessRaisedException):
            raise
        except Exception as error:
            if another_rank_told(error):
                raise SystemExit(2) from None
            has_stepped = inside.num_batches_learnt(self.trainer) != self._beginning.num_learnt
            line = refusal(error, self._own("ckpt_path"), has_stepped)
            line = line or self._beginning.refusal(error)
            line = line or about_optimizer(error, self._own("optimizer"), self._own("lr_scheduler"))
            line = line or self._beginning.about_random_data(error, self.trainer)
            if line is None:
                raise
            raise UsageError(line) from None

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        asked = self._get(self.config_init, "trainer")
        placing = Placing(asked, self._own("virtual_ranks"))
        if warning := placing.warning:
            self._beginning.later(lambda: rank_zero_only(print)(warning, file=sys.stderr))
        begun = self._find_checkpoint(asked, placing)
        kwargs |= placing.flags
        limits = ("max_epochs", "min_epochs", "min_steps", "max_time")
        if all(asked[limit] is None for limit in limits) and asked.max_steps == -1:
            kwargs["max_epochs"] = DEFAULT_MAX_EPOCHS
        if asked.barebones:  # which takes no logger and no callbacks
            return super().instantiate_trainer(**kwargs)
        if asked.enable_progress_bar is None and not has_one(ProgressBar, asked.callbacks):
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        # The summary runs a model that has an example, and so draws what that draws.
        has_example = getattr(self.model, "example_input_array", None) is not None
        has_summary = has_example or has_one(ModelSummary, asked.callbacks)
        if asked.enable_model_summary is None and not has_summary:
            kwargs["enable_model_summary"] = False
        if asked.logger is None or asked.logger is True:
            continues = self._own("ckpt_path") if self._chosen == "fit" else None
            root = asked.default_root_dir or "."
            kwargs["logger"] = run_logger(root, self._own("run_name"), continues, begun.is_here)
        if asked.profiler is None:
            kwargs["profiler"] = NoProfiler()
        return super().instantiate_trainer(**kwargs)

    def _own(self, flag: str) -> Any:
        return self._get(self.config, flag)

    def _find_checkpoint(self, asked: Any, placing: Placing) -> Begun:
        """Have `--ckpt_path` name what the run begins with, and see whether it can be."""
        flag, limit_s = self._own("ckpt_path"), self._own("start_timeout_s")
        begun = begins_with(flag, asked, placing, (self.model, self.datamodule), limit_s)
        for config in (self.config, self.config_init):
            config[self._chosen].ckpt_path = begun.path
        if line := in_words(flag, begun.path, asked.default_root_dir):
            rank_zero_only(print)(line)
        if begun.path is not None and begun.is_here:
            self._read_checkpoint(begun.path)
            check_model(begun.path, self.model, self._checkpoint)
        return begun

    def _read_checkpoint(self, path: str) -> None:
        self._checkpoint = read_checkpoint(path, self._trusted, to_train=self._chosen == "fit")

    def _begin_with_file(self) -> None:
        """What is left to do with the file that the run begins with, before it is started."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None and self._chosen == "fit":
            check_progress(self._own("ckpt_path"), checkpoint, self.trainer)
            self._beginning.num_learnt = num_learnt(checkpoint["loops"]["fit_loop"])
        if path := self._own("weights_from"):
            begin_with(self.trainer, self.model, path, self._trusted)

    @override
    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        own = config["callbacks"]
        if config["barebones"]:
            callbacks.append(self._beginning)
            return self._prepared(Trainer(**config | {"callbacks": [*as_list(own), *callbacks]}))
        keeps = self._chosen == "predict" and self._own("return_predictions") is not False
        callbacks += run_callbacks(
            compile_modules=self._own("compile"),
            data_on_device=self._own("data_on_device"),
            plain_steps=self._own("plain_steps"),
            steps_per_execution=self._own("steps_per_execution"),
            on_nonfinite_loss=self._own("on_nonfinite_loss"),
            predictions=keeps,
            checkpoints=config["enable_checkpointing"] is not False,
            save_every_s=self._own("save_every_s"),
            requeue=self._own("requeue"),
            monitor=self._own("monitor"),
            mode=self._own("mode"),
            log_shapes=self._own("log_shapes"),
        )
        callbacks.insert(-1, self._beginning)  # which is over when all have begun but the console
        # A model that has callbacks may bring a bar: Lightning's is the one that it takes away.
        brings_bar = is_overridden("configure_callbacks", self.model)
        if config["enable_progress_bar"] and not (has_one(ProgressBar, own) or brings_bar):
            callbacks.append(RunProgress())
        trainer = super()._instantiate_trainer(config, callbacks)
        if inside.has_usual_checkpoint_io(trainer):
            trainer.strategy.checkpoint_io = AtomicCheckpointIO(self._trusted)
        check_outputs(trainer)
        return self._prepared(trainer)

    def _prepared(self, trainer: Trainer) -> Trainer:
        inside.check_names(trainer)
        if isinstance(trainer.strategy, MeetingRanks):
            trainer.strategy.start_timeout_s = self._own("start_timeout_s")
            trainer.strategy.step_timeout_s = self._own("step_timeout_s")
            if self._chosen == "fit":
                check_saves(trainer.callbacks, trainer.num_devices * trainer.num_nodes)  # type: ignore[attr-defined]
        inside.replace_launcher(trainer, RankLauncher, SpawningLauncher)
        inside.leave_sigterm_alone(trainer)
        return trainer
