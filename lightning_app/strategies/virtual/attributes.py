"""Plain attributes that a step sets on the model's modules, as a counter of steps.

On V ranks each would set its own. Here each virtual rank begins with what there was as the step
began, and the first one's of a process are kept.

A list that is appended to, or another container, has entries of all parts of the process: they are
noted, for whoever tells of what is computed of them.

A tensor that is changed in place goes with the buffers. A generator that a step draws from is told
of: all parts of a process draw from it, one after the other.

Not covered: what other objects have in them, and what is set for the first time after the steps
that are looked at.
"""

from collections import deque
from functools import cache
from typing import Any, TypeAlias

from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric, MetricCollection

from lightning_app.strategies.checks.first_steps import NUM_STEPS, generator_states
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.dp.writes import TORCHS_OWN, differing

Values: TypeAlias = dict[tuple[nn.Module, str], Any]
_ABSENT = object()
_CONTAINERS = (list, dict, set, deque)
_FEW = 100  # entries of a container that are looked into


class Attributes:
    """Those of a model that its first steps of a kind set.

    Args:
        model: Whose.
        tell: Tells a line.

    Attributes:
        grown: The names of containers that a step has put something in, or taken from.
    """

    def __init__(self, model: LightningModule, tell: TellOnce) -> None:
        self._model, self._tell = model, tell
        self._num_steps = 0
        self._set: dict[tuple[nn.Module, str], None] = {}  # by some step
        self._start: Values = {}
        self._parts: list[Values] = []
        self._lengths: dict[tuple[nn.Module, str], int] = {}
        self._generators: dict[tuple[nn.Module, str], bytes] = {}
        self.grown: dict[str, None] = {}

    def begin(self) -> None:
        """Keep what a step begins with."""
        self._parts = []
        self._num_steps += 1
        self._looks = self._num_steps <= NUM_STEPS
        self._start = self._all() if self._looks else self._known()
        self._lengths = _lengths(self._start) if self._looks else {}
        self._generators = generator_states(self._start) if self._looks else {}

    def part_ended(self) -> None:
        """Note what a virtual rank has set, and have things as the step began."""
        if self._looks:
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
        if self._looks:
            self._tell_of_parts()

    def _tell_of_parts(self) -> None:
        names = {module: name for name, module in self._model.named_modules()}

        def name_of(key: tuple[nn.Module, str]) -> str:
            return f"{names.get(key[0], '')}.{key[1]}".lstrip(".")

        states = [{name_of(key): value for key, value in part.items()} for part in self._parts]
        if differ := differing(states):
            self._tell(
                f"{type(self._model).__name__}: steps set {', '.join(differ)}, each virtual rank "
                "of its own samples, and a device keeps its first one's: return them, or log them",
                subject="attributes",
            )
        later = generator_states(self._all())
        if drawn := [key for key, state in self._generators.items() if later.get(key) != state]:
            self._tell(
                f"{type(self._model).__name__}: steps draw from {', '.join(map(name_of, drawn))}, "
                "and all virtual ranks of a device from the same, so numbers depend on the number "
                "of devices: draw from the global generators",
                subject="generators",
            )
        now = _lengths(self._all())
        grown = (key for key, length in self._lengths.items() if now.get(key, length) != length)
        self.grown |= dict.fromkeys(map(name_of, grown))

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


def _lengths(values: Values) -> dict[tuple[nn.Module, str], int]:
    return {key: _length(value) for key, value in values.items() if isinstance(value, _CONTAINERS)}


def _length(container: Any) -> int:
    members = container.values() if isinstance(container, dict) else container
    inner = members if len(container) <= _FEW else ()
    return len(container) + sum(len(each) for each in inner if isinstance(each, _CONTAINERS))


@cache
def _lightnings_own() -> frozenset[str]:
    return frozenset(vars(LightningModule()))
