"""Asks a machine for its facts, all layers at once, each within a time limit. Never raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from lightning_app.doctor.asking import Asking
from lightning_app.doctor.facts import Adapter, Build, Facts, Process, TorchView
from lightning_app.doctor.machine import Machine
from lightning_app.doctor.probes import fresh, launch, linux, macos, nvml, windows
from lightning_app.doctor.redact import redact
from lightning_app.doctor.variables import LOOKED_AT

T = TypeVar("T")
Fresh = Asking[tuple[Build | None, TorchView | None]]

SLACK_S = 2.0
"""Seconds that a command has beyond its own limit, to be ended in order."""


def probe(machine: Machine | None = None, uuids: bool = False) -> Facts:
    """Asks a machine what it has and what each layer sees of it.

    Args:
        machine: The ways to ask; this machine if left out.
        uuids: Whether UUIDs and serial numbers of GPUs may be in the facts.

    Returns:
        The facts; what could not be learnt is None, with a line in ``unknown``.
    """
    machine = machine or Machine()
    chosen = machine.environ
    free = fresh.without_choice(chosen)
    # Both at once: the second takes no GPU, so it cannot be in the way of the first.
    here = _ask_fresh(machine, chosen, "try", "PyTorch in a fresh process")
    clean = here if free == chosen else _ask_fresh(machine, free, "count", "PyTorch, unrestricted")
    driver = Asking("NVIDIA driver (NVML)", lambda: nvml.nvml(machine), machine.command_s)
    process = Asking("this process", lambda: _process(machine), machine.files_s)
    hosts = Asking(
        "other hosts", lambda: launch.launch(machine, machine.files_s), machine.command_s
    )
    unknown: list[str] = []
    wsl = _on_linux(machine, "WSL", linux.in_wsl).answer(unknown)
    container = _on_linux(machine, "container", linux.in_container)
    kernel_driver = _on_linux(machine, "NVIDIA kernel module", linux.kernel_driver)
    device_nodes = _on_linux(machine, "device nodes", linux.device_nodes)
    listed = Asking("adapters", lambda: _adapters(machine, bool(wsl)), machine.command_s + SLACK_S)
    build, view = here.answer(unknown) or (None, None)
    _, unrestricted = (build, view) if clean is here else clean.answer(unknown) or (None, None)
    facts = Facts(
        system=machine.system or None,
        wsl=wsl,
        container=container.answer(unknown),
        num_cpus=machine.num_cpus,
        interactive=machine.interactive,
        adapters=listed.answer(unknown),
        kernel_driver=kernel_driver.answer(unknown),
        device_nodes=device_nodes.answer(unknown),
        environment={name: chosen[name] for name in LOOKED_AT if name in chosen},
        nvml=driver.answer(unknown),
        build=build,
        process=process.answer(unknown),
        here=view,
        clean=unrestricted,
        launch=hosts.answer(unknown),
    )
    facts = replace(facts, unknown=tuple(unknown))
    return facts if uuids else redact(facts)


def _ask_fresh(machine: Machine, environ: Mapping[str, str], mode: str, what: str) -> Fresh:
    return Asking(
        what,
        lambda: fresh.ask_fresh(machine, environ, mode, machine.fresh_s),
        machine.fresh_s + SLACK_S,
    )


def _on_linux(machine: Machine, what: str, question: Callable[[Machine], T]) -> Asking[T | None]:
    """Asks on Linux; elsewhere the answer is that there is none."""
    return Asking(
        what, lambda: question(machine) if machine.system == "Linux" else None, machine.files_s
    )


def _adapters(machine: Machine, wsl: bool) -> tuple[Adapter, ...]:
    # Linux under WSL2 has no PCI GPU of its own; Windows below it has.
    if machine.system == "Windows" or wsl:
        return windows.adapters(machine, machine.command_s)
    if machine.system == "Darwin":
        return macos.adapters(machine, machine.command_s)
    if machine.system == "Linux":
        return linux.adapters(machine)
    raise ValueError(f"no way to list them on {machine.system or 'an unknown system'}")


def _process(machine: Machine) -> Process | None:
    """Asks PyTorch in this process, only if it is loaded; starts no CUDA."""
    torch = machine.torch()
    if torch is None:
        return None
    initialized = torch.cuda.is_initialized()
    return Process(
        # Before CUDA starts, counting may start it where NVML does not answer.
        device_count=torch.cuda.device_count() if initialized else None,
        initialized=initialized,
        bad_fork=torch.cuda._is_in_bad_fork(),
    )
