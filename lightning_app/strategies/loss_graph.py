"""What a loss is a mean over, read off its graph before the backward pass; nothing is computed."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

Node: TypeAlias = Any  # torch has a class for each function

MEAN, SUM = 1, 2  # as the losses of torch number their reductions
SCALES = ("MulBackward0", "DivBackward0")
PASSES_ON = (
    *("Add", "Sub", "Rsub", "Neg", "Stack", "Clone", "ToCopy"),
    *("View", "Reshape", "Squeeze", "Unsqueeze"),
)
BENDS = ("Sqrt", "Log", "Exp", "Pow", "Relu", "Max", "Amax", "LinalgVectorNorm", "Norm")
LAYERS = (
    *("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution"),
    *("Native", "Cudnn", "Mkldnn"),
)


class _Part(NamedTuple):
    """What a loss is put together of: a sum or mean of values, or a function that is neither."""

    node: Node
    divisors: tuple[float, ...]  # of what it gives


def why_no_mean(loss: Tensor, num_samples: int, global_size: int) -> str | None:
    """Why a loss is not a mean over its samples, in words; `None` if this cannot be seen.

    Args:
        loss: One number.
        num_samples: That it is of, more than one.
        global_size: Samples in the whole batch.
    """
    with suppress(AttributeError, RuntimeError):  # torch's names, and what it keeps, may change
        return _why_no_mean(loss, num_samples, global_size)
    return None


def _why_no_mean(loss: Tensor, num_samples: int, global_size: int) -> str | None:
    for node, divisors in _parts(loss.grad_fn, num_samples, ()):
        by = (*divisors, math.prod(divisors))
        is_divided = any(_is_of(d, num_samples, global_size, node) for d in by)
        if is_divided or not _is_of_samples(node):
            continue
        if _is_sum(node) and divisors:
            return f"is a sum divided by {divisors[-1]:g}, and not by the {num_samples} samples"
        if _is_sum(node):
            return "is a sum over samples, not divided by their number"
        if not _is_mean(node):
            function = re.sub(r"Backward\d*", "", node.name()).lower()
            return f"puts samples together by `{function}`, and not by a mean"
        if _num_values(node) % num_samples:
            return f"is a mean of {_num_values(node)} values of {num_samples} samples"
    return None


def _parts(node: Node, num_samples: int, divisors: tuple[float, ...]) -> Iterator[_Part]:
    if node is None:
        return
    name, following = node.name(), [n for n, _ in node.next_functions]
    if _is_sum(node) or _is_mean(node):
        if not _is_of_numbers(node, num_samples):
            yield _Part(node, divisors)
            return
    elif name.startswith(BENDS):
        yield _Part(node, divisors)
        return
    elif name in SCALES:
        learnt = [_is_of_samples(n) for n in following]
        if learnt[-1] and (all(learnt) or name == "DivBackward0"):
            yield _Part(node, divisors)
            return
        by = node._saved_other if learnt[0] else node._saved_self
        if by is not None and not by.requires_grad and not by.ndim and float(by):
            divisor = abs(float(by) if name == "DivBackward0" else 1 / float(by))
            divisors = divisors if divisor == 1 else (*divisors, divisor)  # Lightning's own
    elif not name.startswith(PASSES_ON):
        return
    for one in following:
        yield from _parts(one, num_samples, divisors)


def _is_sum(node: Node) -> bool:
    return node.name() == "SumBackward0" or getattr(node, "_saved_reduction", None) == SUM


def _is_mean(node: Node) -> bool:
    """Whether it is a mean over values; a mean over labels leaves some out, or weighs them."""
    if node.name() == "MeanBackward0":
        return True
    return getattr(node, "_saved_reduction", None) == MEAN and not node.name().startswith("Nll")


def _num_values(node: Node) -> int:
    """How many values it puts together; 1 if this is not known."""
    sizes = getattr(node, "_saved_self_sym_sizes", None)
    if sizes is not None:
        return math.prod(sizes)
    values = getattr(node, "_saved_self", None)
    return values.numel() if isinstance(values, Tensor) else 1


def _is_of_numbers(node: Node, num_samples: int) -> bool:
    """Whether it puts together some losses, and not values of samples."""
    number = _num_values(node)
    following = [n.name() for n, _ in node.next_functions if n is not None]
    is_stack = following[:1] == ["StackBackward0"]
    is_stack &= len(getattr(node, "_saved_self_sym_sizes", ())) == 1
    return number == 1 or (is_stack and number % num_samples != 0)


def _is_of(divisor: float, num_samples: int, global_size: int, node: Node) -> bool:
    """Whether it is that of the samples, or of their values, and not that of the whole batch."""
    each = round(divisor / num_samples)
    if not each or not math.isclose(divisor, each * num_samples, rel_tol=1e-6):
        return False
    of_each_sample = _num_values(node) // num_samples
    return divisor != global_size or not of_each_sample % each or num_samples == global_size


def _is_of_samples(node: Node) -> bool:
    """Whether a layer that is given samples has a part in it, and not parameters alone."""
    seen: set[Node] = set()
    nodes = [node]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        following = [n for n, _ in node.next_functions]
        is_first_layer = node.name().startswith(LAYERS) and None in following
        leaf = getattr(node, "variable", None)
        is_input = leaf is not None and not isinstance(leaf, nn.Parameter)
        if is_first_layer or is_input or node.name().startswith("Embedding"):
            return True
        nodes += following
    return False
