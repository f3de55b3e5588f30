"""Rules on single GPUs: one that is lost, taken, partitioned, or in another place than thought."""

from __future__ import annotations

from lightning_app.doctor.facts import Facts, NvmlGpu
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.layers import (
    adapters,
    cuda_count,
    mask,
    nvml_gpus,
    tried_gpus,
    variable,
    works,
)

LOST = "NVML_ERROR_GPU_IS_LOST"


def gpu_lost(facts: Facts) -> Finding | None:
    """A GPU that no longer answers on the PCI bus: every byte read from it is ff.

    Source: https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html (Xid 79); Windows
    stops such a device with code 43:
    https://support.microsoft.com/en-us/topic/error-codes-in-device-manager-in-windows-524e9e89-4dee-8883-0afa-6bca0456324e
    """
    cards = adapters(facts, "nvidia")
    evidence = [
        *(f"adapter at {card.bus_id}: PCI revision ff" for card in cards if card.revision == 255),
        *(f"{card.name}: Windows stopped it, code 43" for card in cards if card.problem_code == 43),
        *(f"GPU {gpu.index}: {LOST}" for gpu in nvml_gpus(facts) if gpu.error == LOST),
    ]
    if facts.nvml and facts.nvml.error == LOST:
        evidence.append(f"NVML: {LOST}")
    if not evidence:
        return None
    linux = facts.system == "Linux"
    return Finding(
        cause="gpu-lost",
        explanation="A GPU has fallen off the PCI bus: it is listed, and no longer answers.",
        evidence=tuple(evidence),
        remedy="Switch the machine off and on (a restart alone may not do); if it comes back, look "
        "at power, heat and seating of the card. A laptop may also have switched it off.",
        command="sudo dmesg | grep -i -e 'fallen off the bus' -e Xid" if linux else None,
    )


def exclusive_mode(facts: Facts) -> Finding | None:
    """A GPU in exclusive compute mode that another process holds, or in prohibited mode.

    Source: https://docs.nvidia.com/cuda/cuda-programming-guide/ (compute modes);
    https://github.com/pytorch/pytorch/issues/3871
    """
    # A process that uses the GPU itself would find its own hold on it.
    if facts.process is not None and facts.process.initialized:
        return None
    failed = [gpu for gpu in tried_gpus(facts) if gpu.allocated is False]
    places = {gpu.bus_id for gpu in failed}
    closed = [
        gpu
        for gpu in nvml_gpus(facts)
        if gpu.compute_mode not in (None, "default")
        if gpu.bus_id in places or None in places
    ]
    if not (failed and closed):
        return None
    return Finding(
        cause="exclusive-mode",
        explanation="A GPU is set to one process at a time (or to none), and that place is taken.",
        evidence=(
            *(
                f"GPU {gpu.index} as nvidia-smi numbers it: compute mode {gpu.compute_mode}, "
                f"other processes: {'unknown' if gpu.num_processes is None else gpu.num_processes}"
                for gpu in closed
            ),
            *(f"PyTorch's GPU {gpu.index}: {gpu.error or 'no tensor'}" for gpu in failed),
        ),
        remedy="Wait for the other process or end it; or let an administrator set the compute mode "
        "to default.",
        command=f"sudo nvidia-smi -i {closed[0].index} -c DEFAULT",
    )


def mig(facts: Facts) -> Finding | None:
    """MIG: a process gets one instance, however many there are, and none without instances.

    Source: https://docs.nvidia.com/datacenter/tesla/mig-user-guide/mig-device-names.html
    """
    split = [gpu for gpu in nvml_gpus(facts) if gpu.mig]
    counts = [None if gpu.mig_uuids is None else len(gpu.mig_uuids) for gpu in split]
    known = [count for count in counts if count is not None]
    if not split or (len(nvml_gpus(facts)) == 1 and (known == [1] or not known)):
        return None
    return Finding(
        cause="mig",
        explanation="A GPU is partitioned (MIG), and CUDA gives a process at most one instance.",
        evidence=(
            *(
                f"GPU {gpu.index}: MIG is on, instances: {'unknown' if count is None else count}"
                for gpu, count in zip(split, counts, strict=True)
            ),
            f"CUDA counts {_or_unknown(cuda_count(facts.here))} in a process",
        ),
        remedy="Train on one instance, chosen by its name in CUDA_VISIBLE_DEVICES; or let an "
        "administrator switch MIG off to use whole GPUs."
        if sum(known)
        else "Let an administrator create instances (nvidia-smi mig), or switch MIG off.",
        command=f"sudo nvidia-smi -i {split[0].index} -mig 0",
    )


def device_order(facts: Facts) -> Finding | None:
    """CUDA's numbers are not nvidia-smi's: it puts the fastest GPU first unless told otherwise.

    Source: https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/
    environment-variables.html (CUDA_DEVICE_ORDER)
    """
    value = variable(facts, "CUDA_VISIBLE_DEVICES")
    if variable(facts, "CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or works(facts) is not True:
        return None
    if value is not None and value.startswith(("GPU-", "MIG-")):
        return None
    left = mask(facts)
    listed = nvml_gpus(facts)
    expected = [listed[i] for i in left.indices if i < len(listed)] if left else list(listed)
    counted = tried_gpus(facts)
    if len(expected) != len(counted) or not all(
        [gpu.bus_id for gpu in expected] + [gpu.bus_id for gpu in counted]
    ):
        return None
    pairs = list(zip(counted, expected, strict=True))
    moved = [(own, smi) for own, smi in pairs if own.bus_id != smi.bus_id]
    if not moved:
        return None
    return Finding(
        cause="device-order",
        explanation="CUDA numbers the GPUs in another order than nvidia-smi.",
        evidence=tuple(
            f"number {own.index}: PyTorch means {_at(own.name, own.bus_id)}, "
            f"nvidia-smi {_at(smi.name, smi.bus_id)}"
            for own, smi in moved
        ),
        remedy="Set CUDA_DEVICE_ORDER=PCI_BUS_ID before Python starts, to have one order in both.",
        command="$env:CUDA_DEVICE_ORDER = 'PCI_BUS_ID'"
        if facts.system == "Windows"
        else "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
        severity="note",
    )


def healthy(gpu: NvmlGpu) -> bool:
    """Returns whether the driver lists a GPU without an error and open to CUDA."""
    return gpu.error is None and gpu.compute_mode != "prohibited"


def _at(name: str | None, bus_id: str | None) -> str:
    return f"{name or 'a GPU'} at {bus_id}"


def _or_unknown(count: int | None) -> str:
    return "an unknown number" if count is None else str(count)
