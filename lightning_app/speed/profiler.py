"""The profiler of a run that is not profiled: the Trainer asks it dozens of times in every step."""

from contextlib import AbstractContextManager, nullcontext

from lightning.pytorch.profilers import PassThroughProfiler
from typing_extensions import override

_NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Does nothing, without making a context manager each time to do it."""

    @override
    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING
