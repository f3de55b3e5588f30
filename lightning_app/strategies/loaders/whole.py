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
from lightning_app.strategies.batch.loss_weight import MEAN_OVER
from lightning_app.strategies.batch.padded import (
    NoPart,
    Path,
    Rows,
    Shapes,
    are_padded_apart,
    digest_of,
    lists_of_samples,
    part_of,
    rows_of,
    shapes_in,
)
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.loaders.randomness import (
    GlobalStates,
    are_drawn_since,
    global_states,
    set_global_states,
)

if TYPE_CHECKING:
    from lightning_app.strategies.loaders.passes import Pass

NUM_BATCHES = 10  # of a pass, that are compared

PADDED = "samples are padded to the longest, which is another in each process's part of a batch"
WHOLE = (
    f"{PADDED}: for the numbers of one device, each process loads whole batches and keeps a part; "
    f"if the loss leaves out padded places, a method `{MEAN_OVER}(batch)` of the model saves that"
)
APART = (
    f"{PADDED}, and something else in the batch cannot be split, or is random, so what is computed "
    "over padded places depends on the number of devices: leave these out, or pad to one length"
)
DRAWN = (
    "random numbers are drawn as batches are fetched: the same on all processes, which fetch whole "
    "ones, but others than on one device"
)
_END = object()


class WholeBatches:
    """Finds out whether ranks have to fetch whole batches, and takes their parts of these.

    Args:
        tell: Is called with a line for the user, and what it is about.

    Attributes:
        is_on: Whether they are.
    """

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self.is_on = False
        self._tell = tell
        self._rows: Rows = {}  # of each value the dimension with the samples
        self._lists: set[Path] = set()  # with an entry for each sample, as far as is known
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
            shard, shards = its_pass.coming, its_pass.shards
            if states and not its_pass.is_whole and _is_compared(its_pass, shard):
                ranks = all_objects((shard.size, shapes_in(batch)))
                if shards.is_padded or are_padded_apart(ranks, self._lists):
                    batches = iter(())  # its workers end, before others begin
                    batch, batches = self._try_whole(its_pass, batch, ranks, states)
            if its_pass.is_whole and shard.size and not shard.is_whole:
                try:
                    batch = part_of(batch, self._rows, shard)
                except NoPart:  # on all ranks with a part, which have the same batch
                    if shard.global_size >= shards.world_size:
                        self.is_on = shards.is_padded = False
                    self._tell(APART, "padding")
                    batches = iter(())
                    batches = its_pass.ask_again(is_whole=False, is_new=True)
                    batch = next(batches)
            yield batch

    def _try_whole(
        self, its_pass: "Pass", part: Any, ranks: Sequence[tuple[int, Shapes]], states: GlobalStates
    ) -> tuple[Any, Iterator[Any]]:
        """Fetch whole batches, or go on with parts, if that is not needed or not possible.

        Args:
            its_pass: The pass.
            part: This rank's, of its newest batch.
            ranks: Of each its samples, and the shapes in its part.
            states: Of the global generators, from before the part was fetched.

        Returns:
            The batch that takes the part's place, and those that follow.
        """
        shards, later = its_pass.shards, global_states()
        is_random = are_drawn_since(states)
        set_global_states(states)
        batches = its_pass.ask_again(is_whole=True)
        whole = next(batches)
        self._learn(whole, ranks, shards.is_padded)
        shards.is_padded = self.is_on
        if self.is_on:
            if is_random:
                self._tell(DRAWN, "draws for batches")
            return whole, batches
        batches = iter(())
        batches = its_pass.ask_again(is_whole=False, is_new=False)
        set_global_states(later)
        return part, batches

    def _learn(self, whole: Any, ranks: Sequence[tuple[int, Shapes]], is_padded: bool) -> None:
        """Note the rows of a whole batch, if all ranks have the same, and find them in it."""
        self._lists |= lists_of_samples(whole, ranks)
        if not (is_padded or are_padded_apart(ranks, self._lists)):
            return
        rows = rows_of(whole, ranks)
        first, *others = all_objects((rows is not None, digest_of(whole)))
        self._is_settled = True
        if rows is None or not all(other == first for other in others):
            self._tell(APART, "padding")
        else:
            self.is_on, self._rows = True, rows
            self._tell(WHOLE, "whole batches")


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
