"""This project's flags, and those that are read in more than one place."""

import re
from collections.abc import Sequence
from importlib import import_module
from pydoc import locate
from typing import Any

import yaml
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from lightning_app.checkpoint.best import Mode
from lightning_app.checkpoint.finite import Choice
from lightning_app.data import RandomDataModule
from lightning_app.errors import UsageError
from lightning_app.limits import WAIT_S
from lightning_app.telemetry.shapes import LogShapes

# Name, type, default, help.
_RUN_FLAGS: Sequence[tuple[str, Any, Any, str]] = (
    (
        "weights_from",
        str | None,
        None,
        "A checkpoint or a saved state_dict: a new run begins with its weights.",
    ),
    (
        "save_every_s",
        PositiveFloat | None,
        None,
        "Save a checkpoint within an epoch, too, every so many seconds.",
    ),
    (
        "start_timeout_s",
        PositiveFloat,
        WAIT_S,
        "Seconds to wait for the processes of all ranks when the run starts.",
    ),
    (
        "step_timeout_s",
        PositiveFloat | None,
        None,
        "Seconds to wait for another rank once the first step is done (600 if not given).",
    ),
    (
        "requeue",
        bool,
        False,
        "Have Slurm queue the job again once SIGUSR1 or SIGUSR2 has saved and stopped it.",
    ),
    (
        "steps_per_execution",
        PositiveInt,
        1,
        "Optimizer steps in one iteration of the Trainer's loop: faster for small models.",
    ),
    ("plain_steps", bool, False, "Take Lightning's own way in every step, which takes longer."),
    ("compile", bool, False, "Compile the model's modules by torch.compile, for training."),
    ("data_on_device", bool, False, "Keep all training samples on the device, collated once."),
    (
        "virtual_ranks",
        PositiveInt | None,
        None,
        "Compute as this many ranks would, to the same bits on as many devices or fewer.",
    ),
    (
        "on_nonfinite_loss",
        Choice,
        "stop",
        "What to do once the training loss is NaN or infinite: stop, warn or ignore.",
    ),
    (
        "monitor",
        str | None,
        None,
        "The metric that chooses the best checkpoint; the validation's loss if not given.",
    ),
    (
        "mode",
        Mode | None,
        None,
        "Whether a lower or a higher value of --monitor is better: min or max.",
    ),
    (
        "run_name",
        str | None,
        None,
        "The run's name in TensorBoard, and its folder's; version_N if not given.",
    ),
    (
        "log_shapes",
        LogShapes | None,
        None,
        "Which steps' sizes the console shows: every, change (those seen first) or off.",
    ),
)


def add_run_flags(parser: LightningArgumentParser) -> None:
    """The flags that are this project's own, beside those of Trainer, model and data."""
    for name, kind, default, text in _RUN_FLAGS:
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
        if kind is bool:
            _allow_bare(parser, f"--{name}", True)


def add_short_flags(parser: LightningArgumentParser) -> None:
    """`--devices` for `--trainer.devices`, and `--fast_dev_run` for `--fast_dev_run true`."""
    for action in list(parser._actions):
        for name in [o for o in action.option_strings if o.startswith("--trainer.")]:
            short = "--" + name.removeprefix("--trainer.")
            action.option_strings = [*action.option_strings, short]
            parser._option_string_actions[short] = action
            if "bool" in str(getattr(action, "_typehint", "")):
                _allow_bare(parser, short, True)


def _allow_bare(parser: LightningArgumentParser, flag: str, value: Any) -> None:
    """Let a flag stand without a value, which then is this one."""
    action = parser._option_string_actions[flag]
    action.nargs, action.const = "?", value


def size_model(config: Any, args: list[str]) -> None:
    """Give the model the sizes of the random data; those of other data may mean something else."""
    kind = locate(config.data.class_path) if config.data is not None else None
    if not isinstance(kind, type) or not issubclass(kind, RandomDataModule):
        return
    model, data = (part.get("init_args") or {} for part in (config.model, config.data))
    for size in ("input_size", "output_size"):
        if size not in model or size not in data:
            continue
        given = any(re.match(rf"--model\.(init_args\.)?{size}\b", arg) for arg in args)
        if given and model[size] != data[size]:
            raise UsageError(f"--model.{size}: the data tells it; use --data.{size}")
        model[size] = data[size]


def find_strategy(asked: Any) -> Any:
    """What `--strategy` names: a registered name, or an object of the class at an import path.

    Raises:
        UsageError: It is neither a registered name nor the path of a class.
    """
    if not isinstance(asked, str) or asked == "auto" or asked in StrategyRegistry:
        return asked
    if "." in asked:
        try:
            module, _, name = asked.rpartition(".")
            kind = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(f"--strategy {asked} is not a class of a strategy: {error}") from None
        # Looked at before it is called: it may be anything, `os.abort` as well.
        if not (isinstance(kind, type) and issubclass(kind, Strategy)):
            raise UsageError(f"--strategy {asked} is not a class of a strategy")
        try:
            return kind()
        except TypeError as error:
            raise UsageError(f"--strategy {asked}: {error}") from None
    names = sorted(name for name in StrategyRegistry if "_find_unused_" not in name)
    raise UsageError(f"--strategy {asked}: it must be auto, {', '.join(names)}, or a class path")


def in_config_files(key: str, paths: Any) -> bool:
    """Whether a file that `--config` names has a key, whatever its value.

    Args:
        key: One of the file's outermost.
        paths: As the parser keeps them; `None` for a config that is not a file, which counts as one
            that has the key.
    """
    contents = (path and yaml.safe_load(path.get_content()) for path in paths or [])
    return any(content is None or key in content for content in contents)
