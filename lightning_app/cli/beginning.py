"""A run's beginning, up to its first loop.

An error in it is about what was asked for, unless the user's own code has raised it. Other messages
are held back until it is over, so that a run that is refused prints one line.
"""

import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app import inside
from lightning_app.cli.quiet import quieten_for
from lightning_app.cli.refusals import is_of_another
from lightning_app.errors import (
    UsageError,
    first_line,
    frames_of,
    is_users,
    module_of,
    what_it_says,
)
from lightning_app.processes.signals import Stopped
from lightning_app.waiting import nothing_to_wait_for

_STEPS = ("_evaluation_step", "_predict_step")  # of loops that have no `advance`
_OF_ANOTHER_FORM = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Beginning(Callback):
    """Notes that a loop begins, and holds warnings back until then.

    Attributes:
        is_over: Whether the first loop has begun: training, evaluation or prediction. The sanity
            check before training is part of the beginning.
        random_data: What a model is told that was given no data of its own; empty of others.
        num_learnt: Batches that the run had learnt from before, where it is continued.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.random_data = ""
        self.num_learnt = 0
        self._is_checking = False  # by the steps of the sanity check, which are the user's
        self._held: list[Callable[[], None]] = []
        self._usual: Any = None  # what shows warnings

    def later(self, show: Callable[[], None]) -> None:
        """Have something shown when the loop begins, unless the run is refused."""
        self._held.append(show)

    def __enter__(self) -> "Beginning":
        """Hold warnings back, in a process that is not forked from one that does so."""
        if self._usual is None:
            self._usual = warnings.showwarning
            warnings.showwarning = self._hold  # type: ignore[assignment]
        return self

    def _hold(self, *warning: Any) -> None:
        self.later(partial(self._usual, *warning))

    def __exit__(self, kind: object, error: BaseException | None, frames: object) -> None:
        """Show what has been held back; of a run that is refused or stopped, that alone."""
        told_alone = (ArgumentError, MisconfigurationException, Stopped, UsageError)
        is_told_alone = isinstance(error, told_alone) or (
            isinstance(error, Exception) and self.refusal(error) is not None
        )
        self._end(show=not is_told_alone)

    def _end(self, show: bool = True) -> None:
        self.is_over = True
        nothing_to_wait_for()
        if self._usual is not None:
            warnings.showwarning, self._usual = self._usual, None
        held, self._held = self._held, []
        for show_one in held if show else ():
            show_one()

    def refusal(self, error: Exception) -> str | None:
        """What the user asked for that cannot be, if that is what an error says.

        A connection that ends is another rank's doing.
        """
        is_of_rank = isinstance(error, ConnectionError) or is_of_another(error)
        is_asked_for = not (self.is_over or self._is_checking or is_of_rank)
        if is_asked_for and not any(is_users(f) or _is_step(f) for f in frames_of(error)):
            return what_it_says(error)
        return None

    def about_random_data(self, error: Exception, trainer: Trainer) -> str | None:
        """What a model that does not take the random data has met in its first batch of them."""
        places = list(traceback.walk_tb(error.__traceback__))
        own = [(frame.f_code.co_filename, line) for frame, line in places if is_users(frame)]
        is_in_step = any(_is_step(frame, *_STEPS) for frame, _ in places)
        is_of_form = isinstance(error, _OF_ANOTHER_FORM) and not is_of_another(error)
        is_first = inside.num_batches_learnt(trainer) == 0
        if not (self.random_data and own and is_in_step and is_of_form and is_first):
            return None
        file, line = own[-1]
        what = f"{type(error).__name__}: {first_line(error)}"
        return f"{file}:{line}: {what}. {self.random_data}: --data CLASS names its own"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        quieten_for(trainer.strategy, pl_module)

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_checking = True
        nothing_to_wait_for()

    @override
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_checking = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._is_checking:
            self._end()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_usual": None, "_held": []}  # of this process


def _is_step(frame: FrameType, *names: str) -> bool:
    """Whether this is a loop within a loop: that of a search for a learning rate, say."""
    is_of_loops = module_of(frame).startswith("lightning.pytorch.loops")
    return is_of_loops and frame.f_code.co_name in ("advance", *names)
