"""Random streams that depend on what they are for, and not on who has drawn before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lightning_app.strategies.loaders.randomness import State, enter, leave, seeded

_spare: list[State] = []  # a generator of NumPy's takes long to make


def seed_of(*purpose: int | str) -> int:
    """A seed of 64 bits for a purpose, the same in every process."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def seed_streams(seed: int, device: torch.device | None = None) -> None:
    """Begin new streams of the global generators of torch, Python and NumPy.

    Args:
        seed: Of all of them.
        device: A GPU whose generator is one of them.
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def given_back(device: torch.device | None = None) -> Iterator[None]:
    """Leave the global generators as they were, whatever is seeded and drawn within."""
    on_gpu = device is not None and device.type == "cuda"
    of_gpu: Any = torch.cuda.get_rng_state(device) if on_gpu else None  # type: ignore[arg-type]
    outside = enter(_spare.pop() if _spare else seeded(0))
    try:
        seed_streams(0)
        yield
    finally:
        _spare.append(leave(outside))
        if on_gpu:
            torch.cuda.set_rng_state(of_gpu, device)  # type: ignore[arg-type]
