"""The records of an event file, for many steps that are alike, at a fraction of the cost.

TensorBoard computes a record's checksum in Python, byte by byte, in a thread that the training
step waits for: some 30 µs an event. Events of steps with the same scalars differ in the step's
number alone. With that at the end of each, the checksum of all before it is computed once. (The
order of a protocol buffer's fields is free. The format is that of TensorFlow's `RecordWriter`.)
"""

import struct
from collections.abc import Iterable, Mapping

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import (
    CRC_INIT,
    crc_finalize,
    crc_update,
    masked_crc32c,
)
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter


class Records(bytes):
    """Some records, as they are in the file."""


class RecordsWriter(RecordWriter):  # type: ignore[misc]
    """Also takes `Records`, which need no frame."""

    def write(self, data: bytes) -> None:
        """Write one event, or ready records."""
        if isinstance(data, Records):
            self._writer.write(data)
        else:
            super().write(data)


def take_records(writer: EventFileWriter) -> None:
    """Make an event file's writer take `Records`."""
    thread = writer._async_writer._worker
    thread._record_writer = RecordsWriter(thread._record_writer._writer)


def records_of_steps(
    metrics: Mapping[str, float], steps: Iterable[int], wall_time_s: float
) -> Records:
    """One record for each step, all with the same values.

    Args:
        metrics: The values, by their tags.
        steps: The numbers of the steps.
        wall_time_s: When they were, in seconds since the epoch.
    """
    values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in metrics.items()]
    start = Event(wall_time=wall_time_s, summary=Summary(value=values)).SerializeToString()
    checksum = crc_update(CRC_INIT, start)
    beginnings: dict[int, bytes] = {}  # of records, by the length of what differs
    records = []
    for step in steps:
        end = Event(step=step).SerializeToString()
        if len(end) not in beginnings:
            length = struct.pack("<Q", len(start) + len(end))
            beginnings[len(end)] = length + struct.pack("<I", masked_crc32c(length)) + start
        crc = crc_finalize(crc_update(checksum, end))
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        records.append(beginnings[len(end)] + end + struct.pack("<I", masked))
    return Records(b"".join(records))
