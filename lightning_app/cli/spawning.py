"""`ddp_spawn`, `ddp_fork` and `ddp_notebook`: their ranks end as those of `ddp` do.

What one of them refuses is one line there, too, and not a traceback from another process; a signal
to the first process, which trains nothing itself, is one to them.
"""

import multiprocessing
import os
import signal
import socket
import time
from typing import Any, NoReturn

import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.multiprocessing.spawn import ProcessExitedException
from typing_extensions import override

from lightning_app import inside
from lightning_app.cli.beginning import Beginning
from lightning_app.cli.leaving import leaves_nothing_empty
from lightning_app.cli.quiet import quieten
from lightning_app.cli.refusals import (
    HEARSAY_S,
    another_rank_told,
    is_of_another,
    refusal,
    tell,
    tell_traceback,
)
from lightning_app.errors import RunError, UsageError
from lightning_app.processes import ranks, signals

REFUSED = 2


class SpawningLauncher(inside.MultiProcessingLauncher):
    """Ends a rank as the command line ends: by one line and a status."""

    @override
    def launch(self, function: Any, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        try:
            return super().launch(function, *args, trainer=trainer, **kwargs)
        except ProcessExitedException as error:
            if error.exit_code > 0:  # it has told why
                raise SystemExit(error.exit_code) from None
            name = f"rank {error.error_index} on {socket.gethostname()}"
            raise RunError(f"{name} {ranks.ending(error.exit_code)}") from None
        except signals.Stopped as stop:
            self._stop(stop.signum)
            raise

    def _stop(self, signum: int) -> None:
        """Tell the ranks to stop, and wait for them.

        Raises:
            SystemExit: They have saved, and told so.
        """
        signals.may_wait(True, trains=False)
        processes = self.procs or multiprocessing.active_children()  # some, while they are started
        for process in processes:
            # On Windows that would be a kill; a Ctrl-C is one to all processes there.
            if os.name == "posix" and process.is_alive() and process.pid is not None:
                os.kill(process.pid, signum)
        for process in processes:
            process.join()
        if self.procs and self.procs[0].exitcode == 128 + signum:
            raise SystemExit(128 + signum) from None

    @override
    def _wrapping_function(self, process_idx: int, trainer: Any, *args: Any) -> None:
        quieten()
        rank_zero_only.rank = process_idx  # type: ignore[attr-defined] # until the strategy knows it
        parent = os.getppid()
        with signals.listening_as_rank():
            try:
                self._run(process_idx, trainer, *args)
            except UsageError as error:
                _end(str(error), parent, REFUSED)
            except RunError as error:
                _end(str(error), parent, error.status)
            except Exception as error:
                if is_of_another(error):  # the first process, which notices, ends this one
                    time.sleep(HEARSAY_S)
                if status := tell_traceback(error):
                    raise SystemExit(status) from None
                raise

    def _run(self, process_idx: int, trainer: Any, *args: Any) -> None:
        beginning = next(c for c in trainer.callbacks if isinstance(c, Beginning))
        with beginning, leaves_nothing_empty(trainer, beginning):
            try:
                super()._wrapping_function(process_idx, trainer, *args)
            except RunError:
                raise
            except Exception as error:
                if another_rank_told(error):
                    raise SystemExit(REFUSED) from None
                line = refusal(error, trainer.ckpt_path) or beginning.refusal(error)
                line = line or beginning.about_random_data(error, trainer)
                if line is None:
                    raise
                raise UsageError(line) from None


def _end(line: str, parent: int, status: int) -> NoReturn:
    """End a rank with its line.

    torch ends it as soon as another has ended. Where they share a store, it is told there who
    tells, and is not to be disturbed; before that, the first rank's end says that it has told.
    """
    is_connected = dist.is_available() and dist.is_initialized()
    waits_for_first = rank_zero_only.rank > 0 and not is_connected  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, signal.SIG_DFL if waits_for_first else signal.SIG_IGN)
    tell(line, parent)
    raise SystemExit(status) from None
