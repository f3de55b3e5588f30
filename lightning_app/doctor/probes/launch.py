"""What a launcher on several hosts tells this process, and whether the hosts reach each other."""

from __future__ import annotations

from lightning_app.doctor.facts import Launch
from lightning_app.doctor.machine import Machine
from lightning_app.processes.placement import placement


def launch(machine: Machine, limit_s: float) -> Launch | None:
    """Asks how this host is reached, and reaches for the first one.

    Args:
        machine: The ways to ask.
        limit_s: Seconds for the first host to answer.

    Returns:
        None where no launcher has started this process, or on one host alone.

    Raises:
        ValueError: A variable of the launcher's holds no number.
    """
    placed = placement(machine.environ)
    if placed is None or placed.num_nodes == 1:
        return None
    return Launch(
        placed.launcher,
        placed.num_nodes,
        # The user may have named the network to use.
        None if machine.environ.get("GLOO_SOCKET_IFNAME") else _is_loopback(machine),
        _error(machine, placed.address, placed.port, limit_s),
    )


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
