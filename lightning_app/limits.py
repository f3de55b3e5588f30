"""Limits that no run needs to exceed: above them a number is taken for a mistake, and said so.

Without them a slip of a key starts processes until the machine stands still.
"""

import os

CONFIG_CHARS = 1_000_000  # of one YAML text
CONFIG_DEPTH = 100  # of lists in lists
CONFIG_NODES = 100_000  # of one YAML text, with what its aliases stand for
WAIT_S = 300.0  # for processes that are to join a run
CONNECT_S = 6.0  # for two of them that are both there, in each of gloo's five tries
CONNECT_S_A_RANK = 0.2  # more, as each asks one store for the address of each
STEP_S = 600.0  # for another rank, in training
VIRTUAL_RANKS = 4096  # each a step of its own
PLANNED_RANKS = 1_000_000  # by `train.py plan`, which looks at each

_PROCESSES_PER_CPU = 32


def max_processes() -> int:
    """How many processes, or replicas, a run may have on this machine's CPUs."""
    return _PROCESSES_PER_CPU * max(os.cpu_count() or 1, 2)
