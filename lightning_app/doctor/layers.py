"""Readings that several rules share: how many GPUs each layer of the machine sees. Pure."""

from __future__ import annotations

import re

from lightning_app.doctor.facts import Adapter, Facts, NvmlGpu, TorchGpu, TorchView
from lightning_app.doctor.visible import Visible, visible_devices


def adapters(facts: Facts, *vendors: str) -> tuple[Adapter, ...]:
    """Returns the display adapters of these vendors; none if the adapters are unknown."""
    return tuple(each for each in facts.adapters or () if each.vendor in vendors)


def nvml_gpus(facts: Facts) -> tuple[NvmlGpu, ...]:
    """Returns the GPUs that the driver lists; none if it was not reached."""
    return (facts.nvml.gpus if facts.nvml else None) or ()


def tried_gpus(facts: Facts) -> tuple[TorchGpu, ...]:
    """Returns the GPUs of which one tensor was asked."""
    return (facts.here.gpus if facts.here else None) or ()


def num_nvidia(facts: Facts) -> int:
    """Returns the number of NVIDIA GPUs that any layer knows of; 0 if none does."""
    return max(len(adapters(facts, "nvidia")), len(nvml_gpus(facts)), cuda_count(facts.clean) or 0)


def cuda_count(view: TorchView | None) -> int | None:
    """Returns the number of GPUs that a fresh process gets, by the runtime's count if known."""
    if view is None:
        return None
    return view.device_count if view.runtime_count is None else view.runtime_count


def num_usable(facts: Facts) -> int:
    """Returns the number of GPUs that PyTorch can put a tensor on; what is unknown counts."""
    if facts.here is None or facts.here.is_available is False:
        return 0
    if facts.here.gpus is None:
        return cuda_count(facts.here) or 0
    return sum(gpu.allocated is not False for gpu in facts.here.gpus)


def has_cuda_build(facts: Facts) -> bool:
    """Returns whether a PyTorch that can be imported is known to be built for CUDA."""
    build = facts.build
    return build is not None and build.cuda is not None and build.error is None


def variable(facts: Facts, name: str) -> str | None:
    """Returns an environment variable; None if it is not set or the environment is unknown."""
    return (facts.environment or {}).get(name)


def messages(facts: Facts) -> tuple[str, ...]:
    """Returns what PyTorch warned of while it counted, each text once."""
    views = (facts.clean, facts.here)
    return tuple(dict.fromkeys(view.message for view in views if view and view.message))


def cuda_error(facts: Facts) -> int | None:
    """Returns the error code with which CUDA fails to start; None if it starts or is unknown.

    The process without the variables counts where it is known: in the other, a variable that hides
    every GPU is an error (100) too.
    """
    views = (view for view in (facts.clean, facts.here) if view is not None)
    code = next((view.driver_error for view in views if view.driver_error is not None), None)
    if code:
        return code
    for message in messages(facts):
        if "CUDA unknown error" in message:
            return 999
        if match := re.search(r"Error (\d+):", message):
            return int(match[1])
    return None


def works(facts: Facts) -> bool | None:
    """Returns whether PyTorch can use CUDA without the variables; None if unknown."""
    return facts.clean.is_available if facts.clean else None


def num_maskable(facts: Facts) -> int:
    """Returns the number of GPUs that ``CUDA_VISIBLE_DEVICES`` chooses from: the driver's."""
    return len(nvml_gpus(facts)) or num_nvidia(facts)


def mask(facts: Facts) -> Visible | None:
    """Returns what ``CUDA_VISIBLE_DEVICES`` leaves of the GPUs there are.

    None if it is not set, if no GPU is known of, or if it names UUIDs and the driver, which would
    know them, was not reached.
    """
    value = variable(facts, "CUDA_VISIBLE_DEVICES")
    num_gpus = num_maskable(facts)
    if value is None or not num_gpus:
        return None
    uuids = [gpu.uuid or "" for gpu in nvml_gpus(facts)]
    instances = [gpu.mig_uuids or () for gpu in nvml_gpus(facts)]
    if value.startswith("MIG-") and not any(instances):
        return None
    if value.startswith("GPU-") and not (uuids and all(uuids)):
        return None
    return visible_devices(value, num_gpus, uuids, instances)
