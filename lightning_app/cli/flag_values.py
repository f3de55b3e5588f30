"""Values of flags that would be misread, failed at later or left out: each refused in one line."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from lightning_app.cli.callback_flags import check_callbacks
from lightning_app.cli.config_text import overflows
from lightning_app.cli.outputs import check_folder
from lightning_app.errors import UsageError
from lightning_app.limits import VIRTUAL_RANKS

_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
}
_MAY_BE_NULL = _LEAST.keys() - {"accumulate_grad_batches"}
_MAX_INT = 2**63 - 1  # torch's
_MAX_SEED = 2**32 - 1  # numpy's


def check_value(before: str, argument: str) -> None:
    """Refuse what would be read as another number, or waited for without end.

    Args:
        before: The argument before it: its flag, unless it has that in itself.
        argument: `VALUE`, or `--flag=VALUE`.

    Raises:
        UsageError: It is too large a number, or the path of a pipe.
    """
    flag, is_pair, value = argument.partition("=")
    flag, value = (flag, value) if is_pair else (before, argument)
    if overflows(value):
        raise UsageError(f"{argument}: it is too large a number; infinity is .inf")
    with suppress(OSError, ValueError):  # not a path, or not that of a file
        is_looked_at_later = flag in ("--ckpt_path", "--weights_from")
        if stat.S_ISFIFO(os.stat(value).st_mode) and not is_looked_at_later:
            raise UsageError(f"{flag} {value}: it is a pipe, which is read only once: give a file")


def check_run_flags(flags: Any) -> None:
    """Refuse what Lightning's command line takes, and then fails at or leaves out.

    Args:
        flags: Those that are not the Trainer's, by their names.

    Raises:
        UsageError: A number is out of range, or a flag needs another, or does nothing beside it.
    """
    seed = flags["seed_everything"]
    if not isinstance(seed, bool) and not 0 <= seed <= _MAX_SEED:
        raise UsageError(f"--seed_everything {seed}: it must be from 0 to {_MAX_SEED}")
    if flags.get("lr_scheduler") is not None and flags.get("optimizer") is None:
        raise UsageError("--lr_scheduler needs --optimizer, whose learning rates it changes")
    if flags["mode"] is not None and flags["monitor"] is None:
        raise UsageError("--mode needs --monitor, the metric that it is about")
    if (flags["virtual_ranks"] or 0) > VIRTUAL_RANKS:
        raise UsageError(
            f"--virtual_ranks {flags['virtual_ranks']}: it must be at most {VIRTUAL_RANKS:,}"
        )
    if flags.get("run_name") and flags.get("ckpt_path") == "continue":
        raise UsageError(
            "--run_name and --ckpt_path continue: choose one of them: a run that is started again "
            "before its first checkpoint would find its own folder taken"
        )
    for flag, excluded in _excluding(flags).items():
        for name in (name for name in excluded if flags[name] != _DEFAULTS[name]):
            raise UsageError(f"--{flag} and --{name}: choose one of them")


_DEFAULTS = {
    "compile": False,
    "data_on_device": False,
    "steps_per_execution": 1,
    "on_nonfinite_loss": "stop",
    "save_every_s": None,
    "requeue": False,
    "monitor": None,
    "run_name": None,
}


def _excluding(flags: Any) -> dict[str, Iterable[str]]:
    """Flags that are given, with those that would then do nothing."""
    trainer = flags["trainer"]
    rules: dict[str, tuple[bool, Iterable[str]]] = {
        "plain_steps": (flags["plain_steps"], ("steps_per_execution",)),
        "virtual_ranks": (
            flags["virtual_ranks"] is not None,
            ("compile", "data_on_device", "steps_per_execution"),
        ),
        "barebones": (trainer["barebones"], _DEFAULTS),
        "enable_checkpointing false": (
            trainer["enable_checkpointing"] is False,
            ("save_every_s", "requeue"),
        ),
        "logger": (trainer["logger"] not in (None, True, False), ("run_name",)),
    }
    return {flag: excluded for flag, (is_given, excluded) in rules.items() if is_given}


def check_trainer_flags(flags: Any) -> None:
    """Refuse what the Trainer takes and then fails at, or does something else with.

    Args:
        flags: The Trainer's arguments, by their names.

    Raises:
        UsageError: A number is too small, or no run can be written where it shall be.
    """
    if not hasattr(flags, "keys"):
        raise UsageError(f"trainer: {flags}: it must be flags of the Trainer and their values")
    for flag, value in vars(flags).items():
        if isinstance(value, int) and abs(value) > _MAX_INT:
            raise UsageError(f"--{flag} {value}: it is too large a number")
    for flag, least in _LEAST.items():
        value = flags[flag]
        if (value is None and flag not in _MAY_BE_NULL) or (
            value is not None and not value >= least
        ):
            raise UsageError(f"--{flag} {flags[flag]}: it must be {least} or more")
    every = flags["val_check_interval"]
    if isinstance(every, (int, float)) and every <= 0:
        raise UsageError(f"--val_check_interval {every}: it must be a number above 0")
    for unit in ("epochs", "steps"):
        least, most = flags[f"min_{unit}"], flags[f"max_{unit}"]
        if least is not None and most not in (None, -1) and least > most:
            raise UsageError(f"--min_{unit} {least}: it is more than --max_{unit} {most}")
    if flags["profiler"] == "xla" and not find_spec("torch_xla"):
        raise UsageError("--profiler xla: it is for TPUs, and needs the package torch_xla")
    check_callbacks(flags["callbacks"])
    writes = not (flags["fast_dev_run"] or flags["barebones"] or flags["logger"] is False)
    root = flags["default_root_dir"]
    if root is not None and root.startswith(("[", "{")):
        raise UsageError(f"--default_root_dir {root}: it must be the path of a folder")
    if root is not None or writes:
        has_own_logger = flags["logger"] in (None, True)
        folder = os.path.join(root or ".", "lightning_logs" if has_own_logger else "")
        check_folder(f"--default_root_dir {root or '.'}", folder)
