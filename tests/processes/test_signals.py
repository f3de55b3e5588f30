"""Whose a signal is, and what comes of one at the edges of what listens to it."""

import signal
import subprocess
import sys
import time

import pytest
from lightning.pytorch.trainer.connectors.signal_connector import _HandlersCompose

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.processes.signals import _is_ours, stop_at_once

AT_AN_EDGE = """
import os, signal, sys, threading
from lightning_app.processes import signals

def with_signal(call):
    def do(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return call(*args, **kwargs)
    return do

if sys.argv[1] == "begins":
    threading.Thread.start = with_signal(threading.Thread.start)
with signals.listening():
    signal.set_wakeup_fd = with_signal(signal.set_wakeup_fd)
    sys.exit(2)
"""

WHERE_IT_LEAVES = """
import os, signal, sys
from types import SimpleNamespace
from lightning_utilities.core.rank_zero import rank_zero_only
from lightning_app.cli import leaving
from lightning_app.processes import signals

leaving.leave_no_empty_run = lambda trainer: os.kill(os.getpid(), signal.SIGTERM)
rank_zero_only.rank = int(sys.argv[1])
trainer, beginning = SimpleNamespace(state=SimpleNamespace(fn=None)), SimpleNamespace(is_over=True)
with signals.listening_as_rank(), leaving.leaves_nothing_empty(trainer, beginning):
    sys.exit(2)
"""


def test_a_handler_of_this_project_is_known_within_lightnings() -> None:
    def of_the_user(signum: int, frame: object) -> None: ...

    assert _is_ours(stop_at_once)
    assert _is_ours(_HandlersCompose([of_the_user, stop_at_once]))
    for other in (of_the_user, signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None):
        assert not _is_ours(other)


@pytest.mark.parametrize(("edge", "status"), [("begins", -signal.SIGTERM), ("ends", 2)])
def test_a_signal_where_listening_begins_or_ends_prints_no_traceback(
    edge: str, status: int
) -> None:
    """PyTorch sends it to a rank whose neighbour was refused, wherever that rank is."""
    command = [sys.executable, "-c", AT_AN_EDGE, edge]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (status, "")


@pytest.mark.parametrize(("rank", "status"), [(0, 2), (1, -signal.SIGTERM)])
def test_a_refused_rank_that_is_not_the_first_ends_once_that_has_told(
    rank: int, status: int
) -> None:
    """PyTorch's signal may come while a rank of `ddp_fork` takes away what a run has left."""
    command = [sys.executable, "-c", WHERE_IT_LEAVES, str(rank)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (status, "")


@pytest.mark.parametrize(("signum", "seconds"), [(signal.SIGINT, 1.0), (signal.SIGTERM, 10.0)])
def test_without_a_command_line_a_signal_that_comes_again_at_once_is_the_same(
    signum: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback, now_s = LastCheckpoint(), [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    for now_s[0] in (5.0, 5.0, 5.0 + seconds):
        callback._on_signal(signum, None)
    assert callback._signum == signum
    now_s[0] += 0.1
    with pytest.raises(KeyboardInterrupt):
        callback._on_signal(signum, None)
