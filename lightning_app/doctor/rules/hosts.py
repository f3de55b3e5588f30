"""Rules on several hosts: whether they reach each other."""

from __future__ import annotations

from lightning_app.doctor.facts import Facts
from lightning_app.doctor.finding import Finding


def first_host_not_reached(facts: Facts) -> Finding | None:
    """The launcher names a host as the first that does not answer.

    Source: https://docs.pytorch.org/docs/stable/distributed.html
    """
    if facts.launch is None or facts.launch.first_host_error is None:
        return None
    return Finding(
        cause="first-host-not-reached",
        explanation="The first host, at which ranks meet, does not answer: no run can start here.",
        evidence=(f"connecting to it: {facts.launch.first_host_error}", _hosts(facts)),
        remedy="Use a name or an address that every host knows, and let its firewall pass what the "
        "hosts send each other, on any port.",
        severity="note",
    )


def host_name_is_loopback(facts: Facts) -> Finding | None:
    """This host's name stands for an address that only this host reaches; gloo tells it to others.

    Source: https://docs.pytorch.org/docs/stable/distributed.html#common-environment-variables
    """
    if facts.launch is None or not facts.launch.name_is_loopback:
        return None
    return Finding(
        cause="host-name-is-loopback",
        explanation="This host's name stands for an address that no other host reaches.",
        evidence=("its address begins with 127.", _hosts(facts)),
        remedy="Give the name the host's own address in /etc/hosts, or name the network to use.",
        command="export GLOO_SOCKET_IFNAME=eth0",
        severity="note",
    )


def _hosts(facts: Facts) -> str:
    assert facts.launch is not None
    return f"hosts, by {facts.launch.launcher or 'the launcher'}: {facts.launch.num_hosts or '?'}"
