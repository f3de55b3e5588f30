"""What the ranks of one machine listen on is reached from this machine alone."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from typing_extensions import override

from tests.train_to_end import train

LISTENS = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000")  # as the kernel writes them


def listening() -> list[str]:
    """The addresses of this process's sockets that wait for others."""
    own = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the list itself
            own.add(os.readlink(f"/proc/self/fd/{number}"))
    files = [Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "tcp6")]
    rows = [line.split() for file in files for line in file.splitlines()[1:]]
    return [
        row[1].split(":")[0] for row in rows if row[3] == LISTENS and f"socket:[{row[9]}]" in own
    ]


class Listens(BoringModel):
    """Tells what its process listens on."""

    @override
    def on_train_start(self) -> None:
        Path(f"rank {self.global_rank}").write_text(" ".join(listening()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a process's sockets here")
def test_nothing_is_reached_from_another_machine(tmp_path: Path) -> None:
    flags = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--fast_dev_run")
    outcome = train("--model", f"{__name__}.Listens", *flags, cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    first, other = ((tmp_path / f"rank {rank}").read_text().split() for rank in range(2))
    assert first  # the store
    assert set(first + other) <= set(LOOPBACK)
