"""What a launcher on several hosts tells this process, and whether the hosts reach each other."""

from __future__ import annotations

from lightning_app.doctor.facts import Launch
from lightning_app.doctor.machine import Machine

NUM_HOSTS = (("torchrun", "GROUP_WORLD_SIZE"), ("srun", "SLURM_STEP_NUM_NODES"))
"""The launchers, and by which variable each tells how many hosts there are."""


def launch(machine: Machine, limit_s: float) -> Launch | None:
    """Asks how this host is reached, and reaches for the first one.

    Args:
        machine: The ways to ask.
        limit_s: Seconds for the first host to answer.

    Returns:
        None where no launcher has started this process, or on one host alone.
    """
    environ = machine.environ
    for launcher, name in NUM_HOSTS:
        text = environ.get(name, "")
        if text.isdecimal() and int(text) > 1:
            port = environ.get("MASTER_PORT", "")
            return Launch(
                launcher,
                int(text),
                # The user may have named the network to use.
                None if environ.get("GLOO_SOCKET_IFNAME") else _is_loopback(machine),
                _error(machine, environ.get("MASTER_ADDR"), int(port or 29500), limit_s),
            )
    return None


def _is_loopback(machine: Machine) -> bool | None:
    """Whether this host's name stands for an address of its own alone, as Debian's 127.0.1.1."""
    try:
        return machine.own_address().startswith("127.")
    except OSError:
        return None


def _error(machine: Machine, address: str | None, port: int, limit_s: float) -> str | None:
    if address is None:
        return None
    try:
        machine.connect(address, port, limit_s)
    except ConnectionRefusedError:  # it answers: nothing listens there yet
        return None
    except OSError as error:
        return type(error).__name__
    return None
