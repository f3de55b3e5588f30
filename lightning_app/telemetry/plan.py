"""What a run on many devices would be, in words: pure, from its sizes.

Not covered: the memory of activations, which depends on the model's forward.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_app.command import command as program
from lightning_app.strategies.batch.sharding import shard_sizes
from lightning_app.telemetry.many_ranks import in_words, sum_in_words

MIB = 2**20
# Tensors as large as the weights that an optimizer keeps, by its class.
_KEPT = {
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta"), 2),
    **dict.fromkeys(("Adagrad", "RMSprop", "ASGD"), 1),
    "Rprop": 2,
}


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
        num_nodes: Hosts.
        per_node: Ranks on each.
        batch_size: Samples of a global batch; `None` where the sampler does not tell.
        num_samples: Samples of an epoch; `None` where the sampler does not tell.
        num_batches: Global batches of an epoch.
        weight_bytes: Of the model's parameters.
        trained_bytes: Of those that are trained.
        optimizers: Their classes, and the bytes of what each keeps; `None` where it is not known.
        arguments: The command line, without what a launcher tells.
        accumulated: Batches of an optimizer step.
    """

    num_nodes: int
    per_node: int
    batch_size: int | None
    num_samples: int | None
    num_batches: int
    weight_bytes: int = 0
    trained_bytes: int = 0
    optimizers: dict[str, int | None] = field(default_factory=dict)
    arguments: str = ""
    accumulated: int = 1

    @property
    def world_size(self) -> int:
        """Ranks."""
        return self.num_nodes * self.per_node

    @property
    def last_size(self) -> int | None:
        """Samples of an epoch's last batch; `None` where the sampler does not tell."""
        if self.batch_size is None or self.num_samples is None:
            return None
        return min(self.batch_size, self.num_samples - (self.num_batches - 1) * self.batch_size)


def kept_bytes(
    optimizer: str, weights: int, momentum: float = 0, amsgrad: bool = False
) -> int | None:
    """What an optimizer keeps, in bytes; `None` if that is not known of its class.

    Args:
        optimizer: The name of the class.
        weights: Bytes of the weights that it trains.
        momentum: As `SGD` and `RMSprop` take it.
        amsgrad: As `Adam` takes it.
    """
    if optimizer == "SGD":
        return weights * bool(momentum)
    known = _KEPT.get(optimizer)
    return None if known is None else weights * (known + bool(amsgrad) + bool(momentum))


def lines(plan: Plan) -> Iterator[str]:
    """What there is to know of a plan, and last what to think about, each in a line."""
    nodes = "1 host" if plan.num_nodes == 1 else f"{plan.num_nodes} hosts"
    ranks = "1 rank" if plan.world_size == 1 else f"{plan.world_size} ranks"
    yield f"{ranks}: {nodes} × {plan.per_node}"
    if plan.batch_size is not None:
        yield from _lines_of_batches(plan)
    else:
        yield "the sampler does not tell how large its batches are"
    yield from _lines_of_memory(plan)
    yield f"start it: {command(plan)}"
    for warning in warnings(plan):
        yield f"! {warning}"


def _lines_of_batches(plan: Plan) -> Iterator[str]:
    assert plan.batch_size is not None
    full, last = plan.batch_size, plan.last_size
    yield f"global batch {full} = {_split(full, plan.world_size)}"
    yield f"an epoch: {_steps(plan)}" + (f", {plan.num_samples} samples" if last else "")
    if last and last != full:
        yield f"its last batch {last} = {_split(last, plan.world_size)}"


def _steps(plan: Plan) -> str:
    num_steps = -(-plan.num_batches // plan.accumulated)
    steps = "1 step" if num_steps == 1 else f"{num_steps} steps"
    return steps if plan.accumulated == 1 else f"{steps} of {plan.num_batches} batches"


def _split(size: int, world_size: int) -> str:
    sizes = shard_sizes(size, world_size)
    if world_size > 1 and len(set(sizes)) == 1:
        return f"{sizes[0]} on each rank"
    return sum_in_words(sizes)


def _lines_of_memory(plan: Plan) -> Iterator[str]:
    parts = [
        f"weights {_mib(plan.weight_bytes)}",
        f"gradients {_mib(plan.trained_bytes)}",
    ]
    if plan.world_size > 1:
        parts.append(f"DDP's buckets for them {_mib(plan.trained_bytes)}")
    for name, kept in plan.optimizers.items():
        parts.append(f"{name} {'unknown' if kept is None else _mib(kept)}")
    yield f"memory of each rank, without activations: {', '.join(parts)}"


def _mib(num_bytes: int) -> str:
    if num_bytes >= MIB / 10:
        return f"{num_bytes / MIB:.4g} MiB"
    return f"{num_bytes} bytes"


def command(plan: Plan) -> str:
    """What starts it, on each host."""
    train = f"{program()} {plan.arguments}".rstrip()
    if plan.num_nodes == 1:
        return train
    script = train.removeprefix("python ")  # a script, or `-m` and a module
    no_python = "" if script != train else "--no-python "
    return (
        f"torchrun --nnodes {plan.num_nodes} --nproc-per-node {plan.per_node} --rdzv-id RUN "
        f"--rdzv-backend c10d --rdzv-endpoint FIRST_HOST:29400 {no_python}{script}"
    )


def warnings(plan: Plan) -> Iterator[str]:
    """What to think about before it is started."""
    if plan.batch_size is None or plan.world_size == 1:
        return
    full, last, world_size = plan.batch_size, plan.last_size, plan.world_size
    if full < world_size:
        idle = in_words(range(full, world_size))
        yield (
            f"a batch of {full} has fewer samples than there are ranks ({world_size}): {idle} have "
            "nothing to do in any step; use fewer devices, or a larger batch"
        )
    elif full % world_size:
        more = full // world_size + 1
        yield (
            f"{full} is not a multiple of {world_size}: a step takes as long as its largest part, "
            f"{more} samples; a batch of {more * world_size} would take no longer"
        )
    if last and last < world_size <= full:
        yield f"in each epoch's last batch {in_words(range(last, world_size))} have no sample"
    yield (
        f"the global batch stays {full} on any number of devices, and with it what the learning "
        "rate does; if you enlarge it, the learning rate is yours to change as well"
    )
