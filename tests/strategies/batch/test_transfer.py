"""What is moved to a device is what Lightning gives, also of what is there already."""

from typing import Any, NamedTuple

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from lightning_app.strategies.batch.transfer import _moved

CPU = torch.device("cpu")
X, Y = torch.rand(3, 2), torch.rand(3)


class Pair(NamedTuple):
    """Two parts of a batch."""

    x: Any
    y: Any


BATCHES: list[Any] = [
    X,
    [X, Y],
    (X, [Y]),
    [[X, Y], [X, Y]],
    Pair(X, [Y]),
    {"x": [X], "word": "a"},
    [X, "a", None],
    torch.nn.utils.rnn.pack_sequence([X, X]),
]


@pytest.mark.parametrize("batch", BATCHES)
def test_lists_are_new_and_tensors_are_not(batch: Any) -> None:
    def compare(part: Any, usual: Any, given: Any) -> None:
        assert type(part) is type(usual)
        if isinstance(part, (list, tuple)):
            assert part is not given or not isinstance(part, list)
            for one, other, there in zip(part, usual, given, strict=True):
                compare(one, other, there)
        elif isinstance(part, dict):
            compare(list(part.items()), list(usual.items()), list(given.items()))
        else:
            assert part is usual is given

    compare(_moved(batch, CPU), move_data_to_device(batch, CPU), batch)
