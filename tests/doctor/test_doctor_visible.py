"""CUDA_VISIBLE_DEVICES is read as CUDA and PyTorch read it."""

from __future__ import annotations

import os
from unittest import mock

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from lightning_app.doctor.visible import Stop, Visible, visible_devices

UUIDS = ("GPU-aa11", "GPU-aa22", "GPU-bb33")
MIGS = (("MIG-c1", "MIG-c2"), (), ("MIG-d1",))


@pytest.mark.parametrize(
    ("value", "num_gpus", "indices", "stop", "entry"),
    [
        (None, 3, (0, 1, 2), None, None),
        (None, 0, (), None, None),
        ("", 2, (), "empty", ""),
        (" ", 2, (), "empty", " "),
        ("0,1", 2, (0, 1), None, None),
        ("1,0", 2, (1, 0), None, None),
        (" 1 , 0 ", 2, (1, 0), None, None),
        ("1", 2, (1,), None, None),
        ("0,5,1", 2, (0,), "out-of-range", "5"),
        ("2", 2, (), "out-of-range", "2"),
        ("0,0", 2, (), "repeated", "0"),
        ("0,1,0", 2, (), "repeated", "0"),
        ("0,-1,1", 2, (0,), "negative", "-1"),
        ("-1", 2, (), "negative", "-1"),
        ("0,-1,0", 2, (0,), "negative", "-1"),
        ("all", 2, (), "not-a-device", "all"),
        ("NoDevFiles", 2, (), "not-a-device", "NoDevFiles"),
        ("0,,1", 2, (0,), "not-a-device", ""),
        ("0,GPU-aa11", 3, (0,), "not-a-device", "GPU-aa11"),
        ("1gpu,0x", 2, (1, 0), None, None),
        ("GPU-bb33,GPU-aa11", 3, (2, 0), None, None),
        ("GPU-b", 3, (2,), None, None),
        ("GPU-aa", 3, (), "unknown-uuid", "GPU-aa"),
        ("GPU-bb33,GPU-ee,GPU-aa11", 3, (2,), "unknown-uuid", "GPU-ee"),
        ("GPU-bb33,0", 3, (2,), "unknown-uuid", "0"),
        ("GPU-bb33,GPU-b", 3, (), "repeated", "GPU-b"),
        ("GPU-bb33,GPU-bb33", 3, (), "repeated", "GPU-bb33"),
        ("MIG-d1", 3, (2,), None, None),
        ("MIG-c2,MIG-d1", 3, (0,), None, None),
        ("MIG-e1", 3, (), "unknown-uuid", "MIG-e1"),
        ("MIG-GPU-bb33/1/0", 3, (2,), None, None),
        ("MIG-GPU-ee/1/0", 3, (), "unknown-uuid", "GPU-ee"),
    ],
)
def test_reads_the_variable(
    value: str | None, num_gpus: int, indices: tuple[int, ...], stop: Stop | None, entry: str | None
) -> None:
    assert visible_devices(value, num_gpus, UUIDS, MIGS) == Visible(indices, stop, entry)


ENTRIES = st.one_of(
    st.integers(-2, 6).map(str),
    st.sampled_from(["", " ", "+1", "1gpu2", "x", " 2 ", "-", "01", *UUIDS, "GPU-", "GPU-a"]),
)


@settings(deadline=None)
@given(st.lists(ENTRIES, max_size=5).map(",".join), st.integers(0, 4))
def test_counts_as_pytorch_does(value: str, num_gpus: int) -> None:
    """PyTorch's own reading is the oracle, over numbers, words and UUIDs."""
    uuids = list(UUIDS[:num_gpus])
    with mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": value}):
        try:
            parsed = torch.cuda._parse_visible_devices()
        except ValueError:
            reject()  # a sign without a number: PyTorch itself fails on it
    if parsed and isinstance(parsed[0], str):
        left = torch.cuda._transform_uuid_to_ordinals([str(each) for each in parsed], uuids)
    else:
        numbers = [int(each) for each in parsed]
        end = next((i for i, n in enumerate(numbers) if n >= num_gpus), len(numbers))
        left = numbers[:end]
    assert visible_devices(value, num_gpus, uuids).indices == tuple(left)


@settings(deadline=None)
@given(st.text(max_size=20), st.integers(0, 5))
def test_leaves_distinct_gpus_that_exist(value: str, num_gpus: int) -> None:
    left = visible_devices(value, num_gpus, UUIDS[:num_gpus])
    assert len(set(left.indices)) == len(left.indices)
    assert all(0 <= index < num_gpus for index in left.indices)
    assert (left.stop is None) == (left.entry is None)


@settings(deadline=None)
@given(st.permutations(range(6)))
def test_any_order_of_all_hides_none(order: list[int]) -> None:
    assert visible_devices(",".join(map(str, order)), 6) == Visible(tuple(order))
