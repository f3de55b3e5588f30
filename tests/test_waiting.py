"""A wait is said at a terminal."""

import os
import pty
import subprocess
import sys

WAITS = """
import time
from lightning_app import waiting
waiting.SAYS_SO_S = 0.2
waiting.say_if_slow("soon over")
waiting.say_if_slow("loading")
time.sleep(0.5)
waiting.say_if_slow("starting")
waiting.nothing_to_wait_for()
time.sleep(0.5)
"""

STAGES = """
import time
from lightning_app import waiting
waiting.SAYS_SO_S = 0.8
waiting.say_if_slow("loading")
time.sleep(0.5)
waiting.say_if_slow("starting")
time.sleep(0.6)
waiting.say_if_slow("begun anew")
time.sleep(0.5)
waiting.nothing_to_wait_for()
waiting.say_if_slow("another wait")
time.sleep(0.5)
"""

ENDS = """
import subprocess, sys
from lightning_app import waiting
from lightning_app.processes import ranks
waiting.SAYS_SO_S = 0.2
with ranks.ended_together():
    ranks._ranks[1] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.6)"])
"""

ASKS = """
import time
from lightning_app.doctor import __main__ as doctor
from lightning_app import waiting
waiting.SAYS_SO_S = 0.2
def probe(uuids):
    time.sleep(0.5)
    raise SystemExit
doctor.probe = probe
doctor.main([])
"""

HEARS = """
import os, signal, sys, time
from lightning_app.processes import signals
signals.HEED_S = 0.2
def later(signum, frame): "Training takes it up after the running step."
later.__module__ = "lightning_app.checkpoint.callbacks"
sys.argv = ["train.py"]
with signals.listening():
    signals.may_wait(True)
    signal.signal(signal.SIGINT, later)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.8)
    signals.may_wait(False)
"""


def said_at_a_terminal(script: str = WAITS, **environ: str) -> str:
    """What a script says on stderr, where that is a terminal."""
    reader, terminal = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", script], stderr=terminal, check=True, env=os.environ | environ
    )
    os.write(terminal, b".")
    said = ""
    while not said.endswith("."):
        said += os.read(reader, 1000).decode()
    os.close(terminal)
    os.close(reader)
    return said


def test_a_terminal_is_told_what_is_waited_for() -> None:
    assert said_at_a_terminal() == "loading …\r\n."
    assert said_at_a_terminal(LOCAL_RANK="1") == "."  # the first rank tells for all
    pipe = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, check=True)
    assert pipe.stderr == b""


def test_short_waits_one_after_another_are_a_long_one() -> None:
    assert said_at_a_terminal(STAGES) == "starting …\r\n."


def test_a_terminal_is_told_that_other_ranks_have_not_ended() -> None:
    assert said_at_a_terminal(ENDS) == "waiting for the other processes to end …\r\n."


def test_a_terminal_is_told_once_that_a_signal_was_heard() -> None:
    line = "SIGINT heard: saves and stops when this step, or validation, is done"
    told = f"train.py: {line}; a second one ends it unsaved"
    assert said_at_a_terminal(HEARS) == f"\r\n{told}\r\n."
    assert said_at_a_terminal(HEARS, RANK="1") == "."
    pipe = subprocess.run([sys.executable, "-c", HEARS], capture_output=True, check=True)
    assert pipe.stderr == b""
    # It is taken up at once, and then the run takes long to end.
    ends = HEARS.replace("sleep(0.8)", "sleep(0.1)") + "    time.sleep(0.8)\n"
    assert said_at_a_terminal(ends) == "."


def test_a_terminal_is_told_that_the_doctor_asks() -> None:
    assert said_at_a_terminal(ASKS) == "asking this machine …\r\n."
