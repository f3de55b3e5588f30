"""What a loss is a mean over, read off its graph before the backward pass; nothing is computed."""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

from torch import Tensor, nn

Node: TypeAlias = Any  # torch has a class for each function

MEAN, SUM = 1, 2  # as the losses of torch number their reductions
SCALES = ("MulBackward0", "DivBackward0")
PASSES_ON = (
    *("Add", "Sub", "Neg", "Stack", "Clone", "ToCopy"),
    *("View", "Reshape", "Squeeze", "Unsqueeze"),
)
LAYERS = (
    *("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution"),
    *("Native", "Cudnn", "Mkldnn"),
)


def why_no_mean(loss: Tensor, num_samples: int) -> str | None:
    """Why a loss is not a mean over its samples, in words; `None` if this cannot be seen.

    Args:
        loss: One number.
        num_samples: That it is of, more than one.
    """
    for node, divisors in _reductions(loss.grad_fn, num_samples):
        is_divided = any(_is_multiple(d, num_samples) for d in (*divisors, math.prod(divisors)))
        if is_divided or not _is_of_samples(node):
            continue
        if not _is_sum(node):
            if _num_values(node) % num_samples:
                return f"is a mean of {_num_values(node)} values of {num_samples} samples"
        elif divisors:
            return f"is a sum divided by {divisors[-1]:g}, and not by the {num_samples} samples"
        else:
            return "is a sum over samples, not divided by their number"
    return None


def _reductions(
    node: Node, num_samples: int, divisors: tuple[float, ...] = ()
) -> Iterator[tuple[Node, tuple[float, ...]]]:
    """The sums and means that a loss is put together of, each with what it is divided by."""
    if node is None:
        return
    name = node.name()
    if _is_sum(node) or _is_mean(node):
        if not _is_of_numbers(node, num_samples):
            yield node, divisors
            return
    elif name in SCALES:
        by = node._saved_other if node._saved_other is not None else node._saved_self
        if by is None or by.ndim or by.requires_grad or not float(by):
            return
        divisor = abs(float(by) if name == "DivBackward0" else 1 / float(by))
        divisors = divisors if divisor == 1 else (*divisors, divisor)  # Lightning divides by 1
    elif not name.startswith(PASSES_ON):
        return
    for following, _ in node.next_functions:
        yield from _reductions(following, num_samples, divisors)


def _is_sum(node: Node) -> bool:
    return node.name() == "SumBackward0" or getattr(node, "_saved_reduction", None) == SUM


def _is_mean(node: Node) -> bool:
    """Whether it is a mean over values; a mean over labels leaves some out, or weighs them."""
    if node.name() == "MeanBackward0":
        return True
    return getattr(node, "_saved_reduction", None) == MEAN and not node.name().startswith("Nll")


def _num_values(node: Node) -> int:
    sizes = getattr(node, "_saved_self_sym_sizes", None)
    return math.prod(sizes) if sizes is not None else node._saved_self.numel()


def _is_of_numbers(node: Node, num_samples: int) -> bool:
    """Whether it puts together some losses, and not values of samples."""
    number = _num_values(node)
    following = [n.name() for n, _ in node.next_functions if n is not None]
    is_stack = following[:1] == ["StackBackward0"]
    is_stack &= len(getattr(node, "_saved_self_sym_sizes", ())) == 1
    return number == 1 or (is_stack and number % num_samples != 0)


def _is_multiple(divisor: float, num_samples: int) -> bool:
    ratio = divisor / num_samples
    return round(ratio) > 0 and math.isclose(ratio, round(ratio), rel_tol=1e-6)


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
