"""Sums over virtual ranks, added up in one order whatever processes run them: pure arithmetic.

Floating-point sums depend on the order of additions. Here the virtual ranks are the leaves of a
binary tree, and a node's sum is that of its left half plus that of its right half. A process runs
virtual ranks that follow each other, so it can add up the nodes that it has whole, at most
2·log2(V) of them; the rest is added up of these, by the same tree.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

Node = range  # the leaves below it; a leaf is a node of one


def halves(node: Node) -> tuple[Node, Node]:
    """A node's left half, whose length is a power of two, and what is left of it."""
    middle = node.start + 2 ** ((len(node) - 1).bit_length() - 1)
    return range(node.start, middle), range(middle, node.stop)


def whole_nodes(own: range, node: Node) -> list[Node]:
    """The largest nodes, in their order, of which a process has all leaves.

    Args:
        own: The leaves of the process.
        node: Where to look: the node itself, and those below it.
    """
    if own.start <= node.start and node.stop <= own.stop:
        return [node]
    if own.stop <= node.start or node.stop <= own.start:
        return []
    left, right = halves(node)
    return whole_nodes(own, left) + whole_nodes(own, right)


def tree_sum(node: Node, known: Callable[[Node], T | None], add: Callable[[T, T], T]) -> T:
    """A node's sum.

    Args:
        node: Not empty.
        known: Gives the sum of a node where it is known, as it is of each leaf. Leaves are asked
            for from left to right, each just before it is added.
        add: Adds a right half's sum to a left half's; may change either.
    """
    value = known(node)
    if value is not None:
        return value
    left, right = halves(node)
    value = tree_sum(left, known, add)
    return add(value, tree_sum(right, known, add))
