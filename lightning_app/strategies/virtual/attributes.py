"""Plain attributes that a step sets on the model's modules, as a counter of steps.

On V ranks each would set its own. Here each virtual rank begins with what there was as the step
began, and the first one's of a process are kept.

Not covered: what is changed in place, as a list that is appended to, and what is set for the first
time after the steps that are looked at.
"""

from functools import cache
from typing import Any, TypeAlias

from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric, MetricCollection

from lightning_app.strategies.first_steps import NUM_STEPS
from lightning_app.strategies.telling import TellOnce
from lightning_app.strategies.writes import TORCHS_OWN, differing

Values: TypeAlias = dict[tuple[nn.Module, str], Any]
_ABSENT = object()


class Attributes:
    """Those of a model that its first steps set.

    Args:
        model: Whose.
        tell: Tells a line.
    """

    def __init__(self, model: LightningModule, tell: TellOnce) -> None:
        self._model, self._tell = model, tell
        self._left = NUM_STEPS
        self._set: dict[tuple[nn.Module, str], None] = {}  # by some step
        self._start: Values = {}
        self._parts: list[Values] = []

    def begin(self) -> None:
        """Keep what a step begins with."""
        self._parts = []
        self._left = max(self._left - 1, 0)
        self._start = self._all() if self._left else self._known()

    def part_ended(self) -> None:
        """Note what a virtual rank has set, and have things as the step began."""
        if self._left:
            now = self._all()
            self._set |= dict.fromkeys(
                key for key, value in now.items() if self._start.get(key, _ABSENT) is not value
            )
        self._parts.append(self._known())
        self._put(self._start)

    def end(self) -> None:
        """Have what the first virtual rank has set; tell if others differ."""
        if self._parts:
            self._put(self._parts[0])
        names = {module: name for name, module in self._model.named_modules()} if self._left else {}
        states = [
            {f"{names.get(m, '')}.{name}".lstrip("."): value for (m, name), value in part.items()}
            for part in self._parts
        ]
        if self._left and (differ := differing(states)):
            self._tell(
                f"{type(self._model).__name__}: steps set {', '.join(differ)}, each virtual rank "
                "of its own samples, and a device keeps its first one's: return them, or log them",
                subject="attributes",
            )

    def _known(self) -> Values:
        return {(module, name): vars(module).get(name, _ABSENT) for module, name in self._set}

    def _put(self, values: Values) -> None:
        for module, name in self._set:
            value = values.get((module, name), _ABSENT)
            if value is _ABSENT:
                vars(module).pop(name, None)
            else:
                vars(module)[name] = value

    def _all(self) -> Values:
        own = {*TORCHS_OWN, *_lightnings_own()}
        return {
            (module, name): value
            for module in self._model.modules()
            if not isinstance(module, (Metric, MetricCollection))  # which add up all parts
            for name, value in vars(module).items()
            if name not in own
        }


@cache
def _lightnings_own() -> frozenset[str]:
    return frozenset(vars(LightningModule()))
