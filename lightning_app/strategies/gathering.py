"""What `all_gather` cannot put together: tensors of which each process has another shape."""

from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor


def check_shapes(tensor: Tensor) -> None:
    """Refuse what torch would end with a broken connection, or wait for; all ranks call this.

    Raises:
        MisconfigurationException: The ranks' shapes differ.
    """
    if not dist.is_initialized():
        return
    shapes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shapes, tuple(tensor.shape))
    if len(set(shapes)) > 1:
        listed = " and ".join(map(str, dict.fromkeys(shapes)))
        raise MisconfigurationException(
            f"all_gather got tensors of the shapes {listed} from {len(shapes)} processes, which "
            "have unequal parts of the data: gather a sum and a count, or use a torchmetrics "
            f"object; in training also a batch_size that {len(shapes)} divides, with drop_last=True"
        )
