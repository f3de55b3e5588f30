"""Tells of values that depend on how far the samples of a part of a batch are padded."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from lightning_app.strategies.batch.batch_size import MANY, is_list_of_samples
from lightning_app.strategies.batch.rows import tensors_in
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.module_calls import Listener

Shapes: TypeAlias = tuple[int, list[tuple[int, ...]]]  # of a part: its samples, and its tensors


def shapes_of(batch: Any, num_samples: int) -> Shapes:
    """What other ranks have to know of a rank's batch; nothing of one that is a list of samples."""
    tensors = () if is_list_of_samples(batch, num_samples, least=MANY) else tensors_in(batch)
    return num_samples, [tuple(tensor.shape) for tensor in tensors if not tensor.is_nested]


def padded_apart(ranks: Sequence[Shapes]) -> list[int]:
    """The lengths, from the least on, to which ranks have padded the same tensor.

    Args:
        ranks: Of each rank with samples its batch's.

    Returns:
        Empty if there is no such tensor. One without a dimension for the samples, as of the nodes
        of graphs, is not padded.
    """
    sizes, shapes = [size for size, _ in ranks], [own for _, own in ranks]
    if len({len(own) for own in shapes}) != 1:
        return []
    for of_tensor in zip(*shapes, strict=True):
        if len({len(shape) for shape in of_tensor}) == 1:
            dimensions = [list(lengths) for lengths in zip(*of_tensor, strict=True)]
            others = [set(lengths) for lengths in dimensions if lengths != sizes]
            lengths = next((lengths for lengths in others if len(lengths) > 1), None)
            # Small sizes may be a dimension's by chance, as the two ends of edges.
            is_of_samples = len(set(sizes)) > 1 or sizes[0] >= MANY
            if lengths and is_of_samples and len(others) < len(dimensions):
                return sorted(lengths)
    return []


def tell_of_encoder(
    tell: TellOnce,
    encoder: nn.TransformerEncoder,
    /,
    src: Any = None,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    *others: Any,
    **more: Any,
) -> None:
    """Tell of a call of an encoder whose values at padded places depend on the split.

    torch's fast path (in evaluation, `enable_nested_tensor`) has zeros there, and is as long as the
    longest sample of a part.
    """
    if torch.compiler.is_compiling() or not is_fast(encoder):
        return
    if src_key_padding_mask is not None and mask is None:
        tell(
            f"{type(encoder).__name__}: given src_key_padding_mask, it cuts off and zeroes padded "
            "places in evaluation, by parts of the batch, so what is computed over them depends on "
            "the number of devices: give enable_nested_tensor=False, or leave padded places out of "
            "what is computed"
        )


def listeners_to_encoders(model: nn.Module, tell: TellOnce) -> dict[nn.Module, Listener]:
    """What tells of the calls of a model's encoders, for those who follow modules."""

    def listener(encoder: nn.TransformerEncoder) -> Listener:
        return lambda args, kwargs, output: tell_of_encoder(tell, encoder, *args, **kwargs)

    return {p: listener(p) for p in model.modules() if isinstance(p, nn.TransformerEncoder)}


def is_fast(encoder: nn.TransformerEncoder) -> bool:
    """Whether an encoder's next call may take torch's fast path."""
    return bool(encoder.use_nested_tensor) and not encoder.training
