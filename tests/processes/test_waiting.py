"""A wait is said at a terminal, and the end of a process is quick and loses nothing."""

import os
import pty
import subprocess
import sys

WAITS = """
import time
from lightning_app.processes import waiting
waiting.SAYS_SO_S = 0.2
waiting.say_if_slow("soon over")
waiting.say_if_slow("loading")
time.sleep(0.5)
waiting.say_if_slow("starting")
waiting.nothing_to_wait_for()
time.sleep(0.5)
"""


def said_at_a_terminal(**environ: str) -> str:
    """What the waits above say on stderr, where that is a terminal."""
    reader, terminal = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", WAITS], stderr=terminal, check=True, env=os.environ | environ
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


LEAVES = """
import atexit, threading, time
from lightning_app.processes.leaving import leave
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
class Slow:
    def __del__(self): print("taken apart")
slow = Slow()
leave()
"""


def test_what_is_to_be_done_at_the_end_is_done() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "thread\nat exit\n", "")
