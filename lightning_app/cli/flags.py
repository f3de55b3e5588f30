"""This project's flags, and those that are read in more than one place."""

import re
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


def add_run_flags(parser: LightningArgumentParser) -> None:
    """The flags that are this project's own, beside those of Trainer, model and data."""
    parser.add_argument(
        "--weights_from",
        type=str | None,
        default=None,
        help="A checkpoint or a saved state_dict: a new run begins with its weights.",
    )
    parser.add_argument(
        "--save_every_s",
        type=PositiveFloat | None,
        default=None,
        help="Save a checkpoint within an epoch, too, every so many seconds.",
    )
    parser.add_argument(
        "--start_timeout_s",
        type=PositiveFloat,
        default=WAIT_S,
        help="Seconds to wait for the processes of all ranks when the run starts.",
    )
    parser.add_argument(
        "--step_timeout_s",
        type=PositiveFloat | None,
        default=None,
        help="Seconds to wait for another rank once the first step is done (600 if not given).",
    )
    parser.add_argument(
        "--requeue",
        type=bool,
        default=False,
        help="Have Slurm queue the job again once SIGUSR1 or SIGUSR2 has saved and stopped it.",
    )
    _allow_bare(parser, "--requeue", True)
    parser.add_argument(
        "--steps_per_execution",
        type=PositiveInt,
        default=1,
        help="Optimizer steps in one iteration of the Trainer's loop: faster for small models.",
    )
    parser.add_argument(
        "--plain_steps",
        type=bool,
        default=False,
        help="Take Lightning's own way in every step, which takes longer.",
    )
    _allow_bare(parser, "--plain_steps", True)
    parser.add_argument(
        "--compile",
        type=bool,
        default=False,
        help="Compile the model's modules by torch.compile, for training.",
    )
    _allow_bare(parser, "--compile", True)
    parser.add_argument(
        "--data_on_device",
        type=bool,
        default=False,
        help="Keep all training samples on the device, collated once.",
    )
    _allow_bare(parser, "--data_on_device", True)
    parser.add_argument(
        "--virtual_ranks",
        type=PositiveInt | None,
        default=None,
        help="Compute as this many ranks would, to the same bits on as many devices or fewer.",
    )
    parser.add_argument(
        "--on_nonfinite_loss",
        type=Choice,
        default="stop",
        help="What to do once the training loss is NaN or infinite: stop, warn or ignore.",
    )
    parser.add_argument(
        "--monitor",
        type=str | None,
        default=None,
        help="The metric that chooses the best checkpoint; the validation's loss if not given.",
    )
    parser.add_argument(
        "--mode",
        type=Mode | None,
        default=None,
        help="Whether a lower or a higher value of --monitor is better: min or max.",
    )
    parser.add_argument(
        "--run_name",
        type=str | None,
        default=None,
        help="The run's name in TensorBoard, and its folder's; version_N if not given.",
    )
    parser.add_argument(
        "--log_shapes",
        type=LogShapes | None,
        default=None,
        help="Which steps' sizes the console shows: every, change (those seen first) or off.",
    )


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
