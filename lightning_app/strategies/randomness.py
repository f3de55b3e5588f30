"""The random streams of samplers that shuffle by the global generators: (seed, epoch) alone."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


class OwnRandomness:
    """Goes through a sampler on streams of its own of the torch, NumPy and Python generators.

    What else a rank draws from them neither changes the order nor is changed by it. A generator
    that the user gave to the sampler is set to its own seed plus the epoch.
    """

    def __init__(self, sampler: Any, seed: int, epoch: int) -> None:
        self._sampler, self._seed, self._epoch = sampler, seed, epoch

    def __iter__(self) -> Iterator[Any]:
        iterator, own = None, None
        while True:
            outside = _random_state()
            try:
                if iterator is None:
                    self._seed_generators()
                    iterator = iter(self._sampler)
                else:
                    _set_random_state(own)
                indices = next(iterator)
            except StopIteration:
                return
            finally:
                own = _random_state()
                _set_random_state(outside)
            yield indices

    def _seed_generators(self) -> None:
        seed = (self._seed * 1_000_003 + self._epoch) % 2**32
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed CUDA as well
        random.seed(seed)
        np.random.seed(seed)


def _random_state() -> Any:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _set_random_state(state: Any) -> None:
    torch_state, python_state, numpy_state = state
    torch.set_rng_state(torch_state)
    random.setstate(python_state)
    np.random.set_state(numpy_state)
