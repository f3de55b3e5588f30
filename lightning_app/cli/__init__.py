"""argv → Trainer, model and data; `lightning_app.cli.main` runs a command line."""

import sys
from collections.abc import Callable, Sequence

from lightning_app.command import program
from lightning_app.errors import lightning_lacks, missing_import
from lightning_app.processes.environment import check_environment
from lightning_app.processes.ranks import end_with_parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line: `lightning_app.cli.program.main`.

    Raises:
        SystemExit: With status 2, after one line on stderr, if a launcher's variable makes no sense
            or Lightning has not all that is imported from it; else as that does.
    """
    end_with_parent()
    check_environment()
    load()(arguments)


def load() -> Callable[[Sequence[str] | None], None]:
    """Import what runs command lines, with PyTorch and Lightning.

    Raises:
        SystemExit: With status 2, after one line on stderr, if Lightning has not all of it.
    """
    try:
        from lightning_app.cli.program import main as run
    except ImportError as error:
        if not (error.name or "").startswith("lightning."):
            raise
        line = lightning_lacks([missing_import(error)])
        print(f"{program()}: error: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    return run
