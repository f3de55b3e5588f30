"""BatchNorm on parts of a batch: statistics that nothing keeps, and a part of one sample."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_app.strategies.checks.telling import TellOnce


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


def tell_of_statistics(module: nn.Module, part: str, remedy: str, tell: TellOnce) -> None:
    """Tell of BatchNorm that takes a batch's statistics and keeps none, so that no buffer tells.

    So do layers that Lightning's `BaseFinetuning` freezes with `train_bn=False`.

    Args:
        module: That has it, in the mode in which it has run.
        part: What has a part of the batch, as in `process`.
        remedy: What to do, for the line.
        tell: Tells a line.
    """
    names = [
        name or type(layer).__name__
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        if not (isinstance(layer, nn.SyncBatchNorm) and layer.training)  # it is alone in evaluation
        if (layer.training and not layer.track_running_stats) or layer.running_mean is None
    ]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        tell(
            f"{type(module).__name__}: BatchNorm ({names[0]}{more}) takes the statistics of each "
            f"{part}'s own samples, so its numbers depend on the number of devices{remedy}",
            subject="statistics",
        )
