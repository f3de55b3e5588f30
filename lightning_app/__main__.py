"""The program: `python train.py`, `python -m lightning_app` or, installed, `train-any`."""

import gc
import os
import sys
from collections.abc import Callable, Sequence

from lightning_app.help import shows_help
from lightning_app.processes.environment import check_environment
from lightning_app.processes.ranks import end_with_parent
from lightning_app.processes.signals import listening
from lightning_app.waiting import say_if_slow


def main() -> None:
    """Run this process's command line.

    Raises:
        SystemExit: As `lightning_app.cli.main`.
    """
    if shows_help(sys.argv[1:]):  # at once: PyTorch is not needed for it
        return
    end_with_parent()
    check_environment()  # of which Lightning reads some as it is imported
    # Else torch shows frames of its C++ wherever another rank has ended, beside our line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    say_if_slow("loading PyTorch and Lightning")
    with listening():  # from the first moment: PyTorch is loaded for seconds
        run = _load()
        run(None)


def _load() -> Callable[[Sequence[str] | None], None]:
    """Import what runs command lines.

    The garbage collector leaves it alone, now and later: all of it stays to the end, and going
    through it again and again, at the end as well, takes a quarter of a short run's time. What the
    user's own modules make comes afterwards, and is collected as ever.
    """
    gc.disable()
    from lightning_app.cli import load

    run = load()
    gc.freeze()
    gc.enable()
    return run


if __name__ == "__main__":
    main()
