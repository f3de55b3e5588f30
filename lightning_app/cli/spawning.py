"""How ranks are started by `ddp_spawn`, `ddp_fork` and `ddp_notebook`: what one of them refuses is
one line there, too, and not a traceback that comes from another process.
"""

import os
import signal
from typing import Any

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.multiprocessing.spawn import ProcessExitedException
from typing_extensions import override

from lightning_app import inside
from lightning_app.cli.beginning import Beginning
from lightning_app.cli.quiet import quieten
from lightning_app.cli.refusals import refusal, tell
from lightning_app.telemetry.dashboard import discard_empty_run

REFUSED = 2


class SpawningLauncher(inside.MultiProcessingLauncher):
    """Ends a rank that is refused as the command line ends: by one line and a status."""

    @override
    def _wrapping_function(self, process_idx: int, trainer: Any, *args: Any) -> None:
        quieten()
        rank_zero_only.rank = process_idx  # type: ignore[attr-defined] # until the strategy knows it
        beginning = next(c for c in trainer.callbacks if isinstance(c, Beginning))
        parent = os.getppid()
        try:
            with beginning:
                super()._wrapping_function(process_idx, trainer, *args)
        except Exception as error:
            line = refusal(error, trainer.ckpt_path) or beginning.refusal(error)
            if line is None:
                raise
            discard_empty_run(trainer)
            # To its end: torch ends this rank as soon as another has ended.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            tell(line, parent)
            raise SystemExit(REFUSED) from None


def start_spawned_ranks_so(trainer: Trainer) -> None:
    """Have a Trainer whose ranks share its start start them so."""
    inside.replace_spawning_launcher(trainer, SpawningLauncher)


def is_refused_by_spawned(error: Exception) -> bool:
    """Whether an error is that a rank was refused, which has told so."""
    return isinstance(error, ProcessExitedException) and error.exit_code == REFUSED
