"""Notes what goes into and comes out of modules, step by step, as they are called."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_app import inside
from lightning_app.processes.collectives import gather_numbers
from lightning_app.strategies.ddp.spare_step import is_spare
from lightning_app.strategies.dp.replicas import replica_rank
from lightning_app.strategies.module_calls import ModuleCalls

MAX_CALLS = 1024  # kept as they are

Shape = tuple[int, ...]


class Sizes(NamedTuple):
    """What one rank's model took and gave in one step, and how many samples that is."""

    input: Shape
    output: Shape
    samples: int

    def over_all(self, ranks: "Collection[Sizes]") -> tuple[Shape, Shape]:
        """The shapes of what all ranks took and gave, put together along the samples."""
        given = _joined(self.input, self.samples, [rank.input for rank in ranks])
        return given, _joined(self.output, self.samples, [rank.output for rank in ranks])


StepRun = tuple[dict[int, Sizes], int]  # rank → sizes, and how many steps in a row are like it


class SizeRecorder:
    """Notes the sizes in calls of modules, step by step, until it is stopped.

    Args:
        modules: Those whose calls count. A step's note has the input of the first call and the
            output of the last, for each rank in this process.
        model: Note only calls within its `training_step`.
        replicas_only: Note only calls within a replica, which has a rank of its own (`dp`).
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        model: LightningModule | None = None,
        replicas_only: bool = False,
    ) -> None:
        self.num_steps = 0  # noted and not yet taken
        self._model = model
        self._replicas_only = replicas_only
        # A call's rank, input and output; where a step ends, its samples. What else there is to do
        # with them is done for many steps at once, which takes a third of the time.
        self._calls: list[tuple[int, Shape, Shape] | int | None] = []
        self._step: dict[int, tuple[Shape, Shape]] = {}
        self._runs: list[StepRun] = []
        self._modules = set(modules)
        self._calls_of_modules = ModuleCalls(dict.fromkeys(self._modules, self._note))
        self._calls_of_modules.follow()

    def note_replica(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note a replica's call of an outermost module, which is called around all replicas."""
        if module in self._modules:
            self._note(args, kwargs, output)

    def _note(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._model is not None and inside.running_hook(self._model) != "training_step":
            return
        rank = replica_rank.get()
        if rank is None:
            if self._replicas_only:
                return
            rank = 0
        if is_spare.get():  # a step of which nothing stays
            return
        given = (_first_shape(args[0]) if args else None) or _first_shape((args[1:], kwargs))
        made = _first_shape(output)
        if given and made:
            self._calls.append((rank, given, made))

    def end_step(self, num_samples: int | None) -> None:
        """Close the current step's note.

        Args:
            num_samples: That the step had in this process; `None`: this is not known.
        """
        self._calls.append(num_samples)
        self.num_steps += 1
        if len(self._calls) >= MAX_CALLS:
            self._fold()

    def _fold(self) -> None:
        """Turn the calls of whole steps into runs of equal steps."""
        calls, self._calls = self._calls, []
        for call in calls:
            if isinstance(call, tuple):
                rank, given, made = call
                self._step[rank] = self._step.get(rank, (given,))[0], made
                continue
            step = {rank: _sizes(*shapes, call) for rank, shapes in self._step.items()}
            self._step = {}
            if self._runs and self._runs[-1][0] == step:
                self._runs[-1] = (step, self._runs[-1][1] + 1)
            else:
                self._runs.append((step, 1))

    def take(self) -> list[StepRun]:
        """The steps since the last call: `rank → Sizes`, and how many in a row were like it."""
        self._fold()
        runs, self._runs, self.num_steps = self._runs, [], 0
        return runs

    def stop(self) -> None:
        """Note no more."""
        self._calls_of_modules.stop()


def _sizes(given: Shape, made: Shape, num_samples: int | None) -> Sizes:
    # Samples may be in another dimension than the first, or be made into more rows than there are.
    return Sizes(given, made, num_samples if num_samples in given else given[0])


def _joined(shape: Shape, samples: int, of_ranks: Iterable[Shape]) -> Shape:
    place = shape.index(samples) if samples in shape else 0
    total = sum(other[place] for other in of_ranks if len(other) == len(shape))
    return (*shape[:place], total, *shape[place + 1 :])


def _first_shape(values: Any) -> Shape | None:
    """The shape of the first tensor with a batch dimension in a collection, that is not nested."""
    if isinstance(values, Tensor):
        return None if values.is_nested else tuple(values.shape) or None
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):  # a dataclass with slots has no `__dict__`
        names = getattr(values, "__dataclass_fields__", ())
        values = [getattr(values, name, None) for name in names]
    for value in values:
        if (shape := _first_shape(value)) is not None:
            return shape
    return None


def gather_runs(runs: list[StepRun], device: torch.device) -> list[list[StepRun]]:
    """Every process's runs of steps, in rank order, on the first rank; none on the others.

    Args:
        runs: This process's. All processes have to call this.
        device: Where the ranks' backend takes tensors.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [runs]
    return [_decoded(numbers) for numbers in gather_numbers(_encoded(runs), device)]


def _encoded(runs: list[StepRun]) -> list[int]:
    """Numbers: how many steps, how many ranks, and of each its number, samples and two shapes."""
    numbers: list[int] = []
    for step, count in runs:
        numbers += [count, len(step)]
        for rank, sizes in step.items():
            numbers += [rank, sizes.samples]
            for shape in sizes[:2]:
                numbers += [len(shape), *shape]
    return numbers


def _decoded(numbers: list[int]) -> list[StepRun]:
    left = iter(numbers)

    def shape() -> Shape:
        return tuple(next(left) for _ in range(next(left)))

    runs: list[StepRun] = []
    for count in left:
        ranks = ((next(left), next(left)) for _ in range(next(left)))
        runs.append(({rank: Sizes(shape(), shape(), samples) for rank, samples in ranks}, count))
    return runs


def by_rank(processes: list[list[StepRun]], are_numbered: bool = False) -> Iterator[StepRun]:
    """Runs of steps that are equal on all ranks, in rank order, from each process's own runs.

    Args:
        processes: Their runs. Where there is only one, its ranks are replicas.
        are_numbered: The ranks in them are numbered over all processes, as virtual ranks are.
    """
    if len(processes) == 1:
        yield from ((dict(sorted(step.items())), count) for step, count in processes[0])
        return
    left = [deque(runs) for runs in processes]
    while all(left):
        count = min(runs[0][1] for runs in left)
        steps = [runs[0][0] for runs in left]
        if are_numbered:
            yield {rank: step[rank] for step in steps for rank in sorted(step)}, count
        else:
            yield {rank: step[0] for rank, step in enumerate(steps) if step}, count
        for runs in left:
            step, own = runs.popleft()
            if own > count:
                runs.appendleft((step, own - count))
    assert not any(left), "the ranks have made unequal numbers of steps"
