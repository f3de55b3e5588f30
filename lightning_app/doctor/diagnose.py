"""From facts to causes, the most likely first. Pure: the same facts give the same findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lightning_app.doctor.facts import Facts
from lightning_app.doctor.finding import Finding, Rule
from lightning_app.doctor.rules import (
    build,
    driver,
    environment,
    gpus,
    hosts,
    leftover,
    surroundings,
)

RULES: dict[str, Rule] = {
    "torch-not-importable": build.torch_not_importable,
    "cpu-only-build": build.cpu_only_build,
    "cuda-before-fork": environment.cuda_before_fork,
    "environment-changed": environment.environment_changed,
    "slurm-binding": surroundings.slurm_binding,
    "visible-devices-empty": environment.visible_devices_empty,
    "visible-devices-negative": environment.visible_devices_negative,
    "visible-devices-out-of-range": environment.visible_devices_out_of_range,
    "visible-devices-repeated": environment.visible_devices_repeated,
    "visible-devices-unknown-uuid": environment.visible_devices_unknown_uuid,
    "visible-devices-not-a-device": environment.visible_devices_not_a_device,
    "visible-devices-subset": environment.visible_devices_subset,
    "container-without-gpus": surroundings.container_without_gpus,
    "no-driver": driver.no_driver,
    "driver-mismatch": driver.driver_mismatch,
    "driver-too-old": driver.driver_too_old,
    "wsl-sli": surroundings.wsl_sli,
    "wsl-out-of-memory": surroundings.wsl_out_of_memory,
    "mig": gpus.mig,
    "arch-not-in-build": build.arch_not_in_build,
    "exclusive-mode": gpus.exclusive_mode,
    "gpu-lost": gpus.gpu_lost,
    "cuda-unknown-error": driver.cuda_unknown_error,
    "fabric-manager-missing": driver.fabric_manager_missing,
    "amd-card-cuda-build": build.amd_card_cuda_build,
    "nvidia-card-rocm-build": build.nvidia_card_rocm_build,
    "mps-unavailable": build.mps_unavailable,
    "first-host-not-reached": hosts.first_host_not_reached,
    "host-name-is-loopback": hosts.host_name_is_loopback,
    "adapter-without-cuda": build.adapter_without_cuda,
    "interactive-session": environment.interactive_session,
    "device-order": gpus.device_order,
}
"""Each cause and its rule, the likelier cause first."""

LEFTOVER: dict[str, Callable[[Facts, frozenset[str]], Finding | None]] = {
    "counted-not-available": leftover.counted_not_available,
    "nvml-not-cuda": leftover.nvml_not_cuda,
    "allocation-failed": leftover.allocation_failed,
    "unexplained": leftover.unexplained,
}
"""The causes named only where those above leave something unexplained."""

CAUSES = (*RULES, *LEFTOVER)


def diagnose(facts: Facts) -> list[Finding]:
    """Names the causes for which fewer GPUs can be used than there are.

    Args:
        facts: What is known of the machine; anything in it may be unknown.

    Returns:
        The findings, problems before notes, the likelier before the less likely.
    """
    findings = [found for rule in RULES.values() if (found := rule(facts))]
    for rule in LEFTOVER.values():
        problems = frozenset(each.cause for each in findings if each.severity == "problem")
        if found := rule(facts, problems):
            findings.append(found)
    return sorted(findings, key=lambda each: each.severity == "note")


def exit_code(findings: Iterable[Finding]) -> int:
    """Returns 1 if a GPU is hidden or unusable, else 0."""
    return int(any(each.severity == "problem" for each in findings))
