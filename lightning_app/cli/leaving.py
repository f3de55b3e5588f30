"""A run that comes to nothing leaves nothing, whatever ends its first rank."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_app import inside
from lightning_app.errors import UsageError
from lightning_app.processes.ranks import done_last
from lightning_app.processes.signals import Stopped, deaf
from lightning_app.telemetry.dashboard import discard_empty_run, leave_no_empty_run


class ToldElsewhere(SystemExit):
    """Another rank has told the user why the run is refused."""


@contextmanager
def leaves_nothing_empty(trainer: Trainer, begins_at: int = 0) -> Iterator[None]:
    """Have a run's folder removed where the run is refused, or stopped before its first step.

    One of several ranks may refuse it. A launcher then ends the others by a signal, also the first
    rank, whose folder it is, wherever that is just then.

    Args:
        trainer: Of the run.
        begins_at: Batches that were learnt before it.
    """

    def discard() -> None:
        has_fit = trainer.state.fn == TrainerFn.FITTING  # else there may be predictions
        if has_fit and inside.num_batches_learnt(trainer) == begins_at:
            discard_empty_run(trainer)
        else:
            leave_no_empty_run(trainer)

    with done_last(discard):
        try:
            yield
            leave_no_empty_run(trainer)
        except (ToldElsewhere, UsageError):
            with deaf():
                discard_empty_run(trainer)
            raise
        except Stopped as stop:
            if not stop.agreed:  # else it has saved
                with deaf():
                    discard()
            raise
