"""A run that comes to nothing leaves nothing, whatever ends its first rank."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_app import inside
from lightning_app.cli.beginning import Beginning
from lightning_app.processes.ranks import done_last
from lightning_app.processes.signals import deaf
from lightning_app.telemetry.dashboard import discard_empty_run, leave_no_empty_run


@contextmanager
def leaves_nothing_empty(trainer: Trainer, beginning: Beginning) -> Iterator[None]:
    """Have a run's folder removed where the run ends before its first step.

    One of several ranks may refuse it. A launcher then ends the others by a signal, also the first
    rank, whose folder it is, wherever that is just then.

    Args:
        trainer: Of the run.
        beginning: The run's.
    """

    def discard() -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            is_empty = inside.num_batches_learnt(trainer) in (0, beginning.num_learnt)
        else:
            is_empty = not beginning.is_over  # else there may be predictions
        (discard_empty_run if is_empty else leave_no_empty_run)(trainer)

    with done_last(discard):
        try:
            yield
            leave_no_empty_run(trainer)
        except BaseException as error:
            if not getattr(error, "agreed", False):  # a stop that has saved
                # A later rank has nothing to discard, and ends once the first has told why.
                is_first = not getattr(rank_zero_only, "rank", 0)
                with deaf() if is_first else nullcontext():
                    discard()
            raise
