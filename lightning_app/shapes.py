"""Shows how each batch was split: sizes as forward hooks saw them on each rank.

A hook notes what goes into and comes out of the model in every training step. The notes stay on
their rank until a log step or the epoch's end; then they are gathered, and one process prints
them (the transcript) and logs `batch_size/global` and `batch_size/rank_k` for every step.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_app.collectives import gather_objects
from lightning_app.strategies.dp import DataParallelStrategy, replica_rank
from lightning_app.strategies.spare_step import is_spare

MAX_CALLS = 1024  # kept as they are

Shape = tuple[int, ...]


@runtime_checkable
class LogsSteps(Protocol):
    """A logger that takes the same values for several steps at once."""

    def log_steps(self, metrics: Mapping[str, float], steps: range) -> None:
        """Log the values at each of the steps."""


class Sizes(NamedTuple):
    """What one rank's model took and gave in one step; the first number is that of samples."""

    input: Shape
    output: Shape


StepRun = tuple[dict[int, Sizes], int]  # rank → sizes, and how many steps in a row are like it
SizeRun = tuple[list[int], int]  # samples by rank, and how many steps in a row are like it


class SizeRecorder:
    """Notes sizes by forward hooks on modules, step by step.

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
        # A call's rank, input and output; `None` where a step ends. What else there is to do with
        # them is done for many steps at once, which takes a third of the time.
        self._calls: list[tuple[int, Shape, Shape] | None] = []
        self._step: dict[int, Sizes] = {}
        self._runs: list[StepRun] = []
        self._modules = set(modules)
        self._handles: list[RemovableHandle] = [
            module.register_forward_hook(self._note, with_kwargs=True) for module in self._modules
        ]

    def note_replica(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note a replica's call of an outermost module, whose hooks run around all replicas."""
        if module in self._modules:
            self._note(module, args, kwargs, output)

    def _note(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        # Lightning notes there which of the model's methods it has called.
        if self._model is not None and self._model._current_fx_name != "training_step":
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

    def end_step(self) -> None:
        """Close the current step's note."""
        self._calls.append(None)
        self.num_steps += 1
        if len(self._calls) >= MAX_CALLS:
            self._fold()

    def _fold(self) -> None:
        """Turn the calls of whole steps into runs of equal steps."""
        calls, self._calls = self._calls, []
        for call in calls:
            if call is not None:
                rank, given, made = call
                first = self._step.get(rank)
                self._step[rank] = Sizes(given if first is None else first.input, made)
                continue
            step, self._step = self._step, {}
            if self._runs and self._runs[-1][0] == step:
                self._runs[-1] = (step, self._runs[-1][1] + 1)
            else:
                self._runs.append((step, 1))

    def take(self) -> list[StepRun]:
        """The steps since the last call: `rank → Sizes`, and how many in a row were like it."""
        self._fold()
        runs, self._runs, self.num_steps = self._runs, [], 0
        return runs

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


class ShapeLogger(Callback):
    """Prints and logs the sizes of every training batch, rank by rank.

    Which steps are printed is the model's `log_shapes` (`every`, `change`, `off`; without such an
    attribute `change`: a step whose split is seen for the first time).
    """

    def __init__(self) -> None:
        self._recorder: SizeRecorder | None = None
        self._seen: set[tuple[Sizes, ...]] = set()
        self._next_step = 0
        # Told, on the first rank, what is logged: the first step, and the steps' sizes.
        self.listeners: list[Callable[[int, list[SizeRun]], None]] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        strategy = trainer.strategy
        replicas_only = isinstance(strategy, DataParallelStrategy)
        self._recorder = SizeRecorder(called_modules(pl_module), pl_module, replicas_only)
        if isinstance(strategy, DataParallelStrategy):
            strategy.listeners.append(self._recorder.note_replica)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._next_step = trainer.fit_loop.total_batch_idx + 1

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._recorder is not None
        self._recorder.end_step()
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self._recorder.num_steps >= every:
            self._report(trainer, pl_module)

    def on_step_end(self) -> None:
        """Called between the steps of one execution."""
        assert self._recorder is not None
        self._recorder.end_step()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._recorder is not None and not trainer.sanity_checking:
            self._report(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Steps that a checkpoint has behind it are not run again: what is known of them goes out.
        if self._recorder is not None:
            self._report(trainer, pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._recorder is not None:
            self._recorder.remove()
            if isinstance(trainer.strategy, DataParallelStrategy):
                trainer.strategy.listeners.remove(self._recorder.note_replica)
            self._recorder = None

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._recorder is not None
        device = str(trainer.strategy.root_device)
        gathered = gather_objects((self._recorder.take(), device))
        if not trainer.is_global_zero:
            return
        devices = [device for _, device in gathered]
        if isinstance(trainer.strategy, DataParallelStrategy):
            devices = [str(device) for device in trainer.strategy.parallel_devices]
        steps = list(_by_rank([runs for runs, _ in gathered]))
        first_step = self._next_step
        self._next_step += sum(count for _, count in steps)
        if not any(sizes for sizes, _ in steps):
            return  # the model calls no module that is hooked
        logged: list[SizeRun] = []
        for sizes, count in steps:
            by_rank = [sizes[r].input[0] if r in sizes else 0 for r in range(len(devices))]
            logged.append((by_rank, count))
            for _ in range(self._num_shown(sizes, count, pl_module)):
                pl_module.print("\n".join(_transcript(sizes, devices)))
        for logger in trainer.loggers:
            _log_sizes(logger, first_step, logged)
        for listener in self.listeners:
            listener(first_step, logged)

    def _num_shown(self, sizes: dict[int, Sizes], count: int, pl_module: LightningModule) -> int:
        """How many of some equal steps the console shows."""
        mode, split = getattr(pl_module, "log_shapes", "change"), tuple(sizes.values())
        if not split or mode == "off":
            return 0
        is_new = split not in self._seen
        self._seen.add(split)
        return count if mode == "every" else int(is_new)


def _log_sizes(logger: Logger, first_step: int, runs: list[SizeRun]) -> None:
    """Log each step's sizes; those of equal steps in a row at once, where the logger can."""
    stop = first_step
    for split, count in runs:
        start, stop = stop, stop + count
        scalars: dict[str, float] = {"batch_size/global": sum(split)}
        scalars |= {f"batch_size/rank_{rank}": size for rank, size in enumerate(split)}
        if isinstance(logger, LogsSteps):
            logger.log_steps(scalars, range(start, stop))
        else:
            for step in range(start, stop):
                logger.log_metrics(scalars, step)


def called_modules(root: nn.Module) -> list[nn.Module]:
    """The root's own modules that have parameters; the root where it has none.

    A `ModuleList` or `ModuleDict` is never called, so its members stand for it.
    """
    found: list[nn.Module] = []
    for child in root.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found += [module for module in called_modules(child) if module is not child]
        elif next(child.parameters(), None) is not None:
            found.append(child)
    return list(dict.fromkeys(found)) or [root]


def _first_shape(values: Any) -> Shape | None:
    """The shape of the first tensor with a batch dimension in a collection."""
    if isinstance(values, Tensor):
        return tuple(values.shape) or None
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        values = vars(values).values() if hasattr(values, "__dataclass_fields__") else ()
    for value in values:
        if (shape := _first_shape(value)) is not None:
            return shape
    return None


def _by_rank(processes: list[list[StepRun]]) -> Iterator[StepRun]:
    """Runs of steps that are equal on all ranks, in rank order, from each process's own runs."""
    if len(processes) == 1:  # its ranks are replicas
        yield from ((dict(sorted(step.items())), count) for step, count in processes[0])
        return
    left = [deque(runs) for runs in processes]
    while all(left):
        count = min(runs[0][1] for runs in left)
        yield {rank: runs[0][0][0] for rank, runs in enumerate(left) if runs[0][0]}, count
        for runs in left:
            step, own = runs.popleft()
            if own > count:
                runs.appendleft((step, own - count))
    assert not any(left), "the ranks have made unequal numbers of steps"


def _transcript(step: dict[int, Sizes], devices: list[str]) -> Iterator[str]:
    """The tutorial's lines for one step, each rank's and then the global one."""
    for rank, sizes in step.items():
        yield (
            f"\tIn Model: input size {torch.Size(sizes.input)} "
            f"output size {torch.Size(sizes.output)}  (rank {rank}, {devices[rank]})"
        )
    given, made = next(iter(step.values()))
    num_in = sum(sizes.input[0] for sizes in step.values())
    num_out = sum(sizes.output[0] for sizes in step.values())
    yield (
        f"Outside: input size {torch.Size((num_in, *given[1:]))} "
        f"output_size {torch.Size((num_out, *made[1:]))}"
    )
