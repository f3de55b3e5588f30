"""Sums over virtual ranks have one association, whatever processes hold them."""

from itertools import pairwise
from math import log2

from hypothesis import given
from hypothesis import strategies as st

from lightning_app.strategies.batch.sharding import shard_bounds
from lightning_app.strategies.virtual.passes import Split, ranges_of
from lightning_app.strategies.virtual.tree import Node, tree_sum, whole_nodes


def added(node: Node) -> str:
    """In words, how a node is added up of its leaves."""
    return tree_sum(node, lambda n: str(n.start) if len(n) == 1 else None, "({}+{})".format)


@given(st.integers(1, 40).flatmap(lambda v: st.tuples(st.just(v), st.integers(1, v))))
def test_every_number_of_processes_adds_up_alike(sizes: tuple[int, int]) -> None:
    num_parts, world_size = sizes
    root = range(num_parts)
    known: dict[Node, str] = {}
    for own in ranges_of(num_parts, world_size):
        nodes = whole_nodes(own, root)
        assert [leaf for node in nodes for leaf in node] == list(own)
        assert len(nodes) <= max(2 * log2(num_parts), 1)
        known |= {node: added(node) for node in nodes}
    assert tree_sum(root, known.get, "({}+{})".format) == added(root)


def test_the_association() -> None:
    assert added(range(6)) == "(((0+1)+(2+3))+(4+5))"
    assert whole_nodes(range(3, 8), range(8)) == [range(3, 4), range(4, 8)]


def test_leaves_run_in_order_and_few_sums_wait() -> None:
    waiting, most, order = 0, 0, []

    def leaf(node: Node) -> int | None:
        nonlocal waiting, most
        if len(node) > 1:
            return None
        order.append(node.start)
        waiting += 1
        most = max(most, waiting)
        return 1

    def add(left: int, right: int) -> int:
        nonlocal waiting
        waiting -= 1
        return left + right

    assert tree_sum(range(64), leaf, add) == 64
    assert order == list(range(64))
    assert most == 7  # log2(64) + 1


@given(
    st.integers(1, 50),
    st.integers(1, 12).flatmap(lambda v: st.tuples(st.just(v), st.integers(1, v))),
)
def test_parts_are_those_of_as_many_ranks(size: int, sizes: tuple[int, int]) -> None:
    num_parts, world_size = sizes
    split = Split(size, num_parts, ranges_of(num_parts, world_size))
    owned = [part for rank in range(world_size) for part in split.own(rank)]
    assert owned == list(split.filled)
    bounds = [split.bounds(part) for part in split.filled]
    assert bounds == [shard_bounds(size, part, num_parts) for part in split.filled]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == size
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    assert all(split.part_size(part) > 0 for part in owned)
