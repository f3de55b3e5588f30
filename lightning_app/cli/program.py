"""A command line as a program: what ends it, and how that is told."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import suppress

import torch.distributed as dist

from lightning_app import inside, strategies
from lightning_app.cli import config_text
from lightning_app.cli.command_line import DEFAULT_DATA, CommandLine
from lightning_app.cli.quiet import quieten
from lightning_app.cli.refusals import tell, tell_traceback
from lightning_app.errors import RunError, UsageError, one_line, users_bug
from lightning_app.help import shows_help, without_all
from lightning_app.processes import ranks
from lightning_app.processes.signals import Stopped, listening
from lightning_app.processes.streams import streams_that_may_close
from lightning_app.waiting import nothing_to_wait_for, say_if_slow

DEFAULT_MODEL = "--model=lightning_app.model.LinearModule"
SUBCOMMANDS = ("fit", "validate", "test", "predict", "plan")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line.

    Args:
        arguments: What follows the program's name; those of this process if not given. Ranks that
            are started as processes get those of this process in any case.

    Raises:
        SystemExit: After one line on stderr: with status 2 if the user got something wrong, with
            128 and the signal's number if one ended the run.
    """
    with streams_that_may_close(), listening(), ranks.ended_together():
        _run(list(sys.argv[1:] if arguments is None else arguments), os.getppid())


def _run(arguments: list[str], parent: int) -> None:
    if shows_help(arguments):
        return
    arguments = without_all(arguments)
    with suppress(FileNotFoundError):  # the folder may have been deleted
        sys.path.append(os.getcwd())  # the user's classes may be there, and the program elsewhere
    subcommand = arguments.pop(0) if arguments[:1] and arguments[0] in SUBCOMMANDS else "fit"
    with_defaults = [DEFAULT_MODEL, DEFAULT_DATA, *arguments]
    say_if_slow("making the model and the data")
    strategies.register()
    config_text.register()
    quieten()
    is_alone = True  # with what ends it: the others wait for this rank
    try:
        # The first of several `--model`: not a default of the parser, whose `lr`, say, would
        # become that of a user's class.
        if subcommand == "plan":
            from lightning_app.cli.plan import PlanLine  # with what no run needs

            PlanLine(with_defaults, arguments)
        else:
            CommandLine(subcommand, with_defaults)
        is_alone = False
    except (ArgumentError, UsageError) as error:
        if isinstance(error, ArgumentError) and (bug := users_bug(error)):
            raise bug from None
        tell(one_line(str(error)), parent)
        raise SystemExit(2) from None
    except RunError as error:
        tell(str(error), parent)
        raise SystemExit(error.status) from None
    except Stopped as stop:
        is_alone = not stop.agreed
        if is_alone:
            ranks.stop()
        raise
    except Exception as error:
        if status := tell_traceback(error):
            raise SystemExit(status) from None
        raise
    finally:
        nothing_to_wait_for()
        _leave_process_group(is_alone)


def _leave_process_group(is_alone: bool) -> None:
    """End the process group; with gloo's still alive, the process may be aborted at its end.

    Args:
        is_alone: Whether this rank ends by what may be its own. The others wait for it, and NCCL
            would wait here for them.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    if is_alone and dist.get_backend() == "nccl":
        inside.keep_process_group_at_exit()
    else:
        dist.destroy_process_group()
