"""Whole batches, of which each rank keeps its part, where the parts would be padded apart.

What `collate_fn` makes of a part of a batch need not be a part of what it makes of the whole: where
it pads to the longest sample, each rank's part has another length. So ranks compare the first
batches of each pass. Where they find that, each rank asks for all samples of a batch from there on,
which is what one device trains on, and keeps its rows.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.batch.padded import (
    Rows,
    Shapes,
    are_padded_apart,
    digest_of,
    part_of,
    rows_of,
    shapes_in,
)
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.loaders.randomness import global_states, set_global_states

if TYPE_CHECKING:
    from lightning_app.strategies.loaders.passes import Pass

NUM_BATCHES = 10  # of a pass, that are compared

_END = object()


class WholeBatches:
    """Finds out whether ranks have to fetch whole batches, and takes their parts of these.

    Args:
        tell: Is called where parts are padded apart, with whether whole batches are fetched.

    Attributes:
        is_on: Whether they are.
    """

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self.is_on = False
        self._tell = tell
        self._rows: Rows = {}  # of each value the dimension with the samples
        self._is_settled = False

    def parts(self, its_pass: "Pass", batches: Iterator[Any], may_begin: bool) -> Iterator[Any]:
        """A rank's parts of a pass's batches.

        Args:
            its_pass: The pass.
            batches: What it has fetched.
            may_begin: All ranks go through such a pass, so they may compare its batches.
        """
        for number in count():
            may_compare = may_begin and number < NUM_BATCHES and not self._is_settled
            states = global_states() if may_compare else None
            if (batch := next(batches, _END)) is _END:
                return
            shard = its_pass.coming
            if its_pass.is_whole:
                batch = self._part(batch, shard)
            elif states and _is_compared(its_pass, shard):
                ranks = all_objects((shard.size, shapes_in(batch)))
                if its_pass.shards.is_padded or self._are_apart(ranks):
                    batches = iter(())  # its workers end, before others begin
                    set_global_states(states)
                    batches = its_pass.ask_again(is_whole=True)
                    whole = next(batches)
                    self._learn(whole, ranks, its_pass.shards.is_padded)
                    its_pass.shards.is_padded = self.is_on
                    if self.is_on:
                        batch = self._part(whole, shard)
                    else:
                        batches = iter(())
                        batches = its_pass.ask_again(is_whole=False)
            yield batch

    def _are_apart(self, ranks: Sequence[tuple[int, Shapes]]) -> bool:
        """Whether ranks have padded the same rows apart, as far as is known which values are."""
        known = {path for path, dimension in self._rows.items() if dimension is not None}
        return are_padded_apart(
            [
                (size, {p: shape for p, shape in shapes.items() if p in known or not known})
                for size, shapes in ranks
            ]
        )

    def _learn(self, whole: Any, ranks: Sequence[tuple[int, Shapes]], is_padded: bool) -> None:
        """Note the rows of a whole batch, if all ranks have the same, and find them in it."""
        rows = rows_of(whole, ranks)
        first, *others = all_objects((rows is not None, digest_of(whole)))
        if rows is None or not all(other == first for other in others):
            self._is_settled = True
            self._tell(False)
            return
        self._rows = rows
        # Lists of samples, as of pictures, may have looked so.
        self.is_on = self._is_settled = is_padded or self._are_apart(ranks)
        if self.is_on:
            self._tell(True)

    def _part(self, batch: Any, shard: Shard) -> Any:
        """A rank's part of a whole batch; all of it for one that has none, and counts nothing."""
        return part_of(batch, self._rows, shard) if shard.size else batch


def _is_compared(its_pass: "Pass", shard: Shard) -> bool:
    """Whether all ranks come by to compare a batch, and it is one of a pass's first."""
    is_of_all = shard.global_size >= its_pass.shards.world_size and not _is_passed_by(its_pass)
    return is_of_all and shard.number < its_pass.start + NUM_BATCHES


def _is_passed_by(its_pass: "Pass") -> bool:
    """Whether some ranks come here while others end an earlier loader, for which all ranks meet.

    An evaluation ends a loader when it has got the next one's first batch.
    """
    later = its_pass.shards.loaders_so_far()[1:] if its_pass.skips_idle else []
    return any(shards.newest is not None and shards.newest.begins_idle for shards in later)
