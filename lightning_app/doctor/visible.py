"""Which GPUs ``CUDA_VISIBLE_DEVICES`` leaves, as CUDA reads it. Pure.

The rules are NVIDIA's:
https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html
What they leave open (repeats, entries that are not numbers) follows PyTorch's own reading, on which
``torch.cuda.device_count()`` rests: https://github.com/pytorch/pytorch/pull/92315
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

Stop = Literal["empty", "out-of-range", "repeated", "negative", "unknown-uuid", "not-a-device"]


@dataclass(frozen=True)
class Visible:
    """What one value of the variable leaves."""

    indices: tuple[int, ...]
    """The GPUs left, by their index without the variable, in the order that CUDA gives them."""
    stop: Stop | None = None
    """Why reading ended early; None if every entry counted."""
    entry: str | None = None
    """The entry at which it ended."""


def visible_devices(
    value: str | None,
    num_gpus: int,
    uuids: Sequence[str] = (),
    mig_uuids: Sequence[Sequence[str]] = (),
) -> Visible:
    """Reads ``CUDA_VISIBLE_DEVICES``.

    Args:
        value: The variable; None if it is not set.
        num_gpus: GPUs in the machine.
        uuids: UUID of each GPU, for a value of UUIDs or their beginnings.
        mig_uuids: UUIDs of each GPU's MIG instances, for a value of these. CUDA gives a process
            one instance, so at most one index comes back, that of the instance's GPU.
    """
    if value is None:
        return Visible(tuple(range(num_gpus)))
    if not value.strip():
        return Visible((), "empty", value)
    entries = value.split(",")
    if value.startswith("MIG-"):
        return _by_mig(entries[0], uuids, mig_uuids)
    if value.startswith("GPU-"):
        return _by_uuid(entries, [[uuid] for uuid in uuids])
    return _by_index(entries, num_gpus)


def _by_index(entries: Sequence[str], num_gpus: int) -> Visible:
    # A repeat counts even behind an index that is out of range, but not behind a bad entry.
    numbers: list[int] = []
    ended = Visible(())
    for entry in entries:
        number = _leading_number(entry)
        if number is None or number < 0:
            ended = Visible((), "not-a-device" if number is None else "negative", entry)
            break
        if number in numbers:
            return Visible((), "repeated", entry)
        numbers.append(number)
    for position, number in enumerate(numbers):
        if number >= num_gpus:
            return Visible(tuple(numbers[:position]), "out-of-range", entries[position])
    return Visible(tuple(numbers), ended.stop, ended.entry)


def _leading_number(entry: str) -> int | None:
    """CUDA reads with ``strtoul``: the number that the entry begins with, whatever follows."""
    match = re.match(r"\s*([+-]?[0-9]+)", entry)
    return int(match[1]) if match else None


def _by_uuid(entries: Sequence[str], uuids: Sequence[Sequence[str]]) -> Visible:
    kind = entries[0][:4]
    same_kind = list(takewhile(lambda entry: entry.startswith(kind), entries))
    for position, entry in enumerate(same_kind):
        if entry in same_kind[:position]:
            return Visible((), "repeated", entry)
    indices: list[int] = []
    for entry in entries:
        index = _owner(entry, uuids) if entry in same_kind else None
        if index is None:
            return Visible(tuple(indices), "unknown-uuid", entry)
        if index in indices:
            return Visible((), "repeated", entry)
        indices.append(index)
    return Visible(tuple(indices))


def _owner(beginning: str, uuids: Sequence[Sequence[str]]) -> int | None:
    """Index of the GPU with the one UUID that begins so; None for no such UUID or several."""
    found = [i for i, own in enumerate(uuids) for uuid in own if uuid.startswith(beginning)]
    return found[0] if len(found) == 1 else None


def _by_mig(entry: str, uuids: Sequence[str], mig_uuids: Sequence[Sequence[str]]) -> Visible:
    # Drivers before R470 name an instance after its GPU: MIG-GPU-<uuid>/<number>/<number>.
    if entry.startswith("MIG-GPU-"):
        gpu = entry.removeprefix("MIG-").split("/")[0]
        return _by_uuid([gpu], [[uuid] for uuid in uuids])
    return _by_uuid([entry], mig_uuids)
