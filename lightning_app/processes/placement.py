"""Where a process is among the ranks of a run, as its launcher's variables tell it.

Pure: the variables are passed in, and have been found to make sense (see `environment.py`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

TORCHRUN, SLURM = "torchrun", "srun"
_OWN_LAUNCH = ("MASTER_ADDR", "NODE_RANK")  # with these, Lightning starts a node's processes
_OTHERS = ("LSB_JOBID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "KUBERNETES_PORT")


@dataclass(frozen=True)
class Placement:
    """One process of a run that a launcher has started.

    Attributes:
        launcher: The command that started it: `torchrun` or `srun`.
        rank: Its number among all.
        world_size: How many there are.
        local_rank: Its number among those of its host.
        local_world_size: How many there are on its host.
        node: Its host's number.
        num_nodes: How many hosts there are.
        address: Of the first rank's host; `None` where nothing tells it.
        port: That the first rank listens on.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node: int
    num_nodes: int
    address: str | None
    port: int


def placement(environ: Mapping[str, str]) -> Placement | None:
    """Where this process is; `None` if neither torchrun nor srun has started it with others."""
    if "TORCHELASTIC_RUN_ID" in environ:
        return _of_torchrun(environ)
    # Also set in a batch script, which is not one of the job's tasks: only srun makes steps.
    if {"SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"} <= environ.keys():
        return _of_srun(environ)
    return None


def _of_torchrun(environ: Mapping[str, str]) -> Placement:
    def number(name: str, otherwise: int) -> int:
        return int(environ.get(name, otherwise))

    world_size = number("WORLD_SIZE", 1)
    local_world_size = number("LOCAL_WORLD_SIZE", world_size)
    return Placement(
        TORCHRUN,
        number("RANK", 0),
        world_size,
        number("LOCAL_RANK", 0),
        local_world_size,
        number("GROUP_RANK", 0),
        number("GROUP_WORLD_SIZE", world_size // local_world_size),
        environ.get("MASTER_ADDR", "127.0.0.1"),
        number("MASTER_PORT", 29500),
    )


def _of_srun(environ: Mapping[str, str]) -> Placement | None:
    world_size = int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS", "1"))
    if world_size == 1:
        return None  # one task may start the run's processes as it does elsewhere
    node = int(environ["SLURM_NODEID"])
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "")
    tasks = tasks_per_node(text) or [world_size]
    step, job = environ["SLURM_STEP_ID"], environ.get("SLURM_JOB_ID", "0")
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST", "")
    return Placement(
        SLURM,
        int(environ["SLURM_PROCID"]),
        world_size,
        int(environ["SLURM_LOCALID"]),
        tasks[node] if node < len(tasks) else tasks[-1],
        node,
        len(tasks),
        environ.get("MASTER_ADDR") or first_host(hosts),
        # The same on all hosts, and another in each step.
        int(environ.get("MASTER_PORT", 15000 + (int(job) + int(step)) % 10000)),
    )


def tasks_per_node(text: str) -> list[int]:
    """Slurm's numbers of tasks: `2(x3),1` is 2, 2, 2 and 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in found for _ in range(int(times or 1))]


def first_host(hosts: str) -> str | None:
    """The first of Slurm's host names: `node[07-09,12],login` begins with node07."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", hosts.strip())
    return "".join(part or "" for part in found.groups()) if found else None


def restarts(environ: Mapping[str, str]) -> int:
    """How often the launcher has started the run again."""
    names = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return max(int(environ.get(name) or 0) for name in names)


def starts_nodes_itself(environ: Mapping[str, str]) -> bool:
    """Whether it is told how the processes of several hosts find each other, or may be."""
    return set(_OWN_LAUNCH) <= environ.keys() or any(name in environ for name in _OTHERS)


def global_rank(environ: Mapping[str, str]) -> int:
    """This process's number among all of the run, before there is a strategy that knows it."""
    placed = placement(environ)
    if placed is not None:
        return placed.rank
    return int(environ.get("RANK") or environ.get("LOCAL_RANK") or 0)


def local_rank(environ: Mapping[str, str]) -> int:
    """This process's number among those of its host."""
    placed = placement(environ)
    return placed.local_rank if placed is not None else int(environ.get("LOCAL_RANK") or 0)
