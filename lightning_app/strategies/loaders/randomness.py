"""The random streams of samplers that draw from the global generators: (seed, epoch) alone."""

import pickle
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

_DRAW_AT_FIRST = {
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    list,
    range,
}


def is_known(sampler: object) -> bool:
    """Whether a sampler is one of torch's: it keeps no state, and draws as a pass begins."""
    if type(sampler) is BatchSampler:
        return is_known(sampler.sampler)
    return type(sampler) in _DRAW_AT_FIRST


class SeededSampler:
    """Goes through a sampler on streams of its own of the torch, NumPy and Python generators.

    What else a rank draws from them neither changes the order nor is changed by it. A generator
    of the sampler's own is left alone. One of torch's samplers draws from the global generators
    at a pass's first index only, and is let run from then on.

    Args:
        sampler: The user's; this asks for its iterator at once, as a `DataLoader` does.
        seed: Of the streams.
    """

    def __init__(self, sampler: Iterable[Any], seed: int) -> None:
        self._draws_at_first = is_known(sampler)
        self._own: Any = None
        outside = enter(seeded(seed))
        try:
            self._iterator = iter(sampler)
        finally:
            self._own = leave(outside)

    def __iter__(self) -> Iterator[Any]:
        while True:
            outside = enter(self._own)
            try:
                indices = next(self._iterator)
            except StopIteration:
                return
            finally:
                self._own = leave(outside)
            yield indices
            if self._draws_at_first:
                yield from self._iterator
                return


GlobalStates = tuple[torch.Tensor, Any, Any]  # of the global generators


def global_states() -> GlobalStates:
    """The states of the global generators of torch (on the CPU), Python and NumPy."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def are_drawn_since(states: GlobalStates) -> bool:
    """Whether a global generator has another state by now."""
    (of_torch, *others), (now_of_torch, *now) = states, global_states()
    return not of_torch.equal(now_of_torch) or pickle.dumps(others) != pickle.dumps(now)


def set_global_states(states: GlobalStates) -> None:
    """Put the global generators in these states."""
    of_torch, of_python, of_numpy = states
    torch.set_rng_state(of_torch)
    random.setstate(of_python)
    np.random.set_state(of_numpy)


State = tuple[torch.Tensor, Any, Any]  # of torch, of Python, and NumPy's generator itself


def seeded(seed: int) -> State:
    """A state that a seed leads to."""
    seed %= 2**32
    torch_state = torch.Generator().manual_seed(seed).get_state()
    return torch_state, random.Random(seed).getstate(), np.random.MT19937(seed)


def enter(state: State) -> State:
    """Put a state in the place of the global generators'; what they had is returned."""
    outside = torch.get_rng_state(), random.getstate(), np.random.get_bit_generator()  # type: ignore[attr-defined]
    torch_state, python_state, numpy_generator = state
    torch.set_rng_state(torch_state)
    random.setstate(python_state)
    np.random.set_bit_generator(numpy_generator)  # type: ignore[attr-defined]
    return outside


leave = enter  # the same exchange, the other way round
