"""What a loss is a mean over, read off its graph before the backward pass; nothing is computed."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

Node: TypeAlias = Any  # torch has a class for each function

MOST_NODES = 10_000  # of a graph that is looked at
FEWEST = 2  # that a sum is divided by: by less, it is weighed
MEAN, SUM = 1, 2  # as the losses of torch number their reductions
SCALES = ("MulBackward0", "DivBackward0")
PASSES_ON = {
    *("Add", "Sub", "Rsub", "Neg", "Stack", "Clone", "ToCopy"),
    *("View", "Reshape", "UnsafeView", "Squeeze", "Unsqueeze", "Expand"),
}
BENDS = {"Sqrt", "Log", "Exp", "Pow", "Relu", "Max", "Amax", "LinalgVectorNorm", "Norm"}
REDUCES = {"Mean", "Sum", "Stack", "Cat", "Max", "Amax", "Min", "Amin", "Logsumexp"}
LAYERS = (
    *("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution", "Embedding"),
    *("Native", "Cudnn", "Mkldnn"),
)


class _Part(NamedTuple):
    """What a loss is put together of: a sum or mean of values, or a function that is neither."""

    node: Node
    divisors: tuple[float, ...]  # of what it gives
    bends: bool = False  # what it is given, so that a mean of it is not one over samples


def why_no_mean(
    loss: Tensor, num_samples: int, global_size: int, accumulated: int = 1
) -> str | None:
    """Why a loss is not a mean over its samples, in words; `None` if this cannot be seen.

    Args:
        loss: One number.
        num_samples: That it is of, more than one.
        global_size: Samples in the whole batch.
        accumulated: Batches by which Lightning has divided it.
    """
    with suppress(AttributeError, RuntimeError):  # torch's names, and what it keeps, may change
        node: Node = loss.grad_fn
        if accumulated > 1 and node.name() == "DivBackward0" and node._saved_other == accumulated:
            node = node.next_functions[0][0]
        return _why_no_mean(node, num_samples, global_size)
    return None


def _why_no_mean(loss: Node, num_samples: int, global_size: int) -> str | None:
    for node, divisors, bends in _parts(loss, num_samples, ()):
        by = (*divisors, math.prod(divisors))
        is_divided = any(_is_of(d, num_samples, global_size, node) for d in by)
        if is_divided or not is_of_samples(node):
            continue
        if bends:
            name = re.sub("(?<!^)(?=[A-Z])", "_", _kind(node)).lower()  # `mse_loss` of `MseLoss`
            return f"puts samples together by `{name}`, and not by a mean"
        if _is_sum(node) and (counts := [d for d in divisors if d >= FEWEST]):
            return f"is a sum divided by {counts[-1]:g}, and not by the {num_samples} samples"
        if _is_sum(node):
            return "is a sum over samples, not divided by their number"
        if _num_values(node) % num_samples:
            return f"is a mean of {_num_values(node)} values of {num_samples} samples"
    return None


def _parts(node: Node, num_samples: int, divisors: tuple[float, ...]) -> Iterator[_Part]:
    if node is None:
        return
    kind, following = _kind(node), [n for n, _ in node.next_functions]
    if _is_sum(node) or _is_mean(node):
        if _num_values(node) > 1 and not _is_of_losses(node, num_samples):
            if not _is_of_reduced(node):
                yield _Part(node, divisors)
            elif (bend := _bend_of_sums(node, num_samples)) is not None:
                yield _Part(bend, divisors, bends=True)
            return
    elif _bends(node):
        yield _Part(node, divisors, bends=True)
        return
    elif node.name() in SCALES:
        by = node._saved_other if is_of_samples(following[0]) else node._saved_self
        if by is not None and not by.requires_grad and by.numel() == 1:
            factor = abs(float(by))
            if not 0 < factor < math.inf:
                return
            divisor = factor if kind == "Div" else 1 / factor
            divisors = divisors if divisor == 1 else (*divisors, divisor)
    elif kind not in PASSES_ON:
        return
    for one in following:
        yield from _parts(one, num_samples, divisors)


def _kind(node: Node) -> str:
    return re.sub(r"Backward\d*$", "", node.name())


def _is_sum(node: Node) -> bool:
    return node.name() == "SumBackward0" or getattr(node, "_saved_reduction", None) == SUM


def _is_mean(node: Node) -> bool:
    """Whether it is a mean over values; a mean over labels leaves some out, or weighs them."""
    if node.name() == "MeanBackward0":
        return True
    return getattr(node, "_saved_reduction", None) == MEAN and not node.name().startswith("Nll")


def _num_values(node: Node) -> int:
    """How many values it puts together; what it has saved may be computed anew to be looked at."""
    return math.prod(_given(node)[0])


def _is_of_losses(node: Node, num_samples: int) -> bool:
    """Whether it puts together some losses, one number each, and not one of each sample."""
    of, number = node.next_functions[0]
    is_stack = (
        of is not None and _kind(of) == "Stack" and len(of._input_metadata[number].shape) == 1
    )
    return is_stack and _num_values(node) % num_samples != 0


def _is_of_reduced(node: Node) -> bool:
    """Whether its values are put together of others already, samples among them perhaps."""
    return any(_kind(one) in REDUCES for one in below(node, LAYERS) if one is not node)


def _bends(node: Node) -> bool:
    """Whether it is a function of samples that is not linear."""
    if node.name() not in SCALES:
        return _kind(node) in BENDS
    learnt = [is_of_samples(n) for n, _ in node.next_functions]
    return learnt[-1] and (all(learnt) or _kind(node) == "Div")


def _bend_of_sums(node: Node, num_samples: int) -> Node | None:
    """What bends sums over the samples, as Dice of each class does, before they are reduced.

    Where several samples are put together, the first dimension is theirs.
    """

    def is_of_each(shape: Any) -> bool:
        return any(size % num_samples == 0 for size in shape)

    def sums_over_samples(one: Node) -> bool:
        if _kind(one) not in ("Sum", "Mean"):
            return False
        given = _given(one)[0]
        is_over_first = len(given) > 0 and given[0] % num_samples == 0
        if not is_over_first or is_of_each(one._input_metadata[0].shape):
            return False
        return not any(_kind(n) in ("Select", "Unbind") for n in below(one, LAYERS))

    def is_bend(one: Node) -> bool:
        is_loss = getattr(one, "_saved_reduction", None) is not None  # a square, or the like
        return not any(map(is_of_each, _given(one))) and (is_loss or _bends(one))

    sums = {one for one in below(node, LAYERS) if sums_over_samples(one)}
    for one in below(node, LAYERS) if sums else ():
        is_of_sums = is_bend(one) and not sums.isdisjoint({*below(one, LAYERS)} - {one})
        if is_of_sums and is_of_samples(one):
            return one
    return None


def _given(node: Node) -> list[Any]:
    """The shapes of what it puts together."""
    return [of._input_metadata[n].shape for of, n in node.next_functions if of is not None]


def _is_of(divisor: float, num_samples: int, global_size: int, node: Node) -> bool:
    """Whether it is that of the samples, or of their values, and not that of the whole batch."""
    each = round(divisor / num_samples)
    if not each or not math.isclose(divisor, each * num_samples, rel_tol=1e-6):
        return False
    of_each_sample = _num_values(node) // num_samples
    return divisor != global_size or not of_each_sample % each or num_samples == global_size


def is_of_samples(node: Node) -> bool:
    """Whether a layer that is given samples has a part in it, and not parameters alone."""
    for one in below(node):
        is_first_layer = one.name().startswith(LAYERS) and None in [
            n for n, _ in one.next_functions
        ]
        leaf = getattr(one, "variable", None)
        is_input = leaf is not None and not isinstance(leaf, nn.Parameter)
        if is_first_layer or is_input or one.name().startswith("Embedding"):
            return True
    return False


def below(node: Node, but_of: tuple[str, ...] = ()) -> Iterator[Node]:
    """A node and all that it is computed of, but for what nodes of some names are computed of.

    Raises:
        RuntimeError: There are too many.
    """
    seen: set[Node] = set()
    nodes = [node]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if len(seen) > MOST_NODES:
            raise RuntimeError("a graph too large to be looked at")
        yield node
        if not (but_of and node.name().startswith(but_of)):
            nodes += [n for n, _ in node.next_functions]
