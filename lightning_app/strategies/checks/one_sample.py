"""A part of a batch that is one sample, on which BatchNorm cannot train."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException


@contextmanager
def refused_by_batchnorm(batch_size: int, parts: str) -> Iterator[None]:
    """Make one line of BatchNorm's error, where one device would have had more samples.

    Args:
        batch_size: Samples of the whole batch.
        parts: Among what it is split, as in `2 processes`.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error) or batch_size == 1:
            raise
        raise MisconfigurationException(
            f"BatchNorm cannot train on one sample, and a batch of {batch_size} over {parts} "
            "leaves one of them a single sample: use drop_last=True, another batch_size, or "
            "one device"
        ) from error
