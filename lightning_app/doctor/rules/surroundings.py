"""Rules on where the process runs: a container, a SLURM job, WSL."""

from __future__ import annotations

from lightning_app.doctor.facts import Facts
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.layers import (
    adapters,
    cuda_count,
    cuda_error,
    num_nvidia,
    tried_gpus,
    variable,
    works,
)
from lightning_app.doctor.variables import SLURM


def container_without_gpus(facts: Facts) -> Finding | None:
    """A container that was started without the host's GPUs, or with some of them.

    Source: https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/
    docker-specialized.html
    """
    if not facts.container or facts.wsl or facts.device_nodes is None:
        return None
    on_host = max(len(adapters(facts, "nvidia")), 1 if facts.kernel_driver else 0)
    if facts.device_nodes >= on_host or (cuda_count(facts.clean) or 0) >= on_host:
        return None
    asked = variable(facts, "NVIDIA_VISIBLE_DEVICES")
    given = "none" if not facts.device_nodes else f"{facts.device_nodes} of {on_host}"
    return Finding(
        cause="container-without-gpus",
        explanation="The container was started without the GPUs of its host, or with only some.",
        evidence=(
            f"NVIDIA adapters of the host: {len(adapters(facts, 'nvidia')) or 'unknown'}, "
            f"kernel module: {facts.kernel_driver or 'not seen'}",
            f"device nodes /dev/nvidia<n> in the container: {given}",
            f"NVIDIA_VISIBLE_DEVICES is {'not set' if asked is None else repr(asked)}",
        ),
        remedy="Start the container with its GPUs, on a host with the NVIDIA Container Toolkit; in "
        "Kubernetes, ask for nvidia.com/gpu.",
        command="docker run --gpus all ...",
    )


def slurm_binding(facts: Facts) -> Finding | None:
    """SLURM gives the job, or each of its tasks, some of the node's GPUs.

    Source: https://slurm.schedmd.com/gres.html;
    https://github.com/Lightning-AI/pytorch-lightning/issues/16828
    """
    seen = cuda_count(facts.here)
    cpu_only = facts.build is not None and facts.build.cuda is None
    if variable(facts, "SLURM_JOB_ID") is None or seen is None or cpu_only:
        return None
    of_job = max(_number(facts, "SLURM_GPUS_ON_NODE"), _listed(facts, "SLURM_JOB_GPUS"))
    total = max(num_nvidia(facts), of_job)
    # 100 is "no device", as a job gets that asked for none; any other code is not SLURM's doing.
    if seen >= total or cuda_error(facts) not in (None, 100):
        return None
    variables = ("CUDA_VISIBLE_DEVICES", *SLURM)
    values = [(name, variable(facts, name)) for name in variables]
    in_job = seen < of_job
    wanted = of_job if in_job else total
    return Finding(
        cause="slurm-binding",
        explanation="SLURM bound this task to some of the GPUs of its job."
        if in_job
        else "SLURM gave this job some of the GPUs of the node.",
        evidence=(
            f"this process sees {seen}, the job has {of_job or 'an unknown number'}, "
            f"the node {total}",
            *(f"{name}={value}" for name, value in values if value is not None),
        ),
        remedy=("Let every task see all GPUs of its job" if in_job else "Ask SLURM for more GPUs")
        + f", one task for each, and train with --devices {wanted} --strategy ddp.",
        command=f"srun --gpus-per-node={wanted} --ntasks-per-node={wanted} --gpu-bind=none ...",
    )


def wsl_sli(facts: Facts) -> Finding | None:
    """Under WSL2, GPUs that Windows joins by SLI come as one.

    Source: https://github.com/microsoft/WSL/issues/5484
    """
    if not facts.wsl or num_nvidia(facts) < 2 or cuda_count(facts.clean) != 1:
        return None
    if works(facts) is not True:
        return None
    return Finding(
        cause="wsl-sli",
        explanation="Windows has several NVIDIA GPUs and WSL2 gets one, as while SLI is on.",
        evidence=(f"NVIDIA GPUs seen by Windows or its driver: {num_nvidia(facts)}, by CUDA: 1",),
        remedy="Turn SLI off in the NVIDIA Control Panel of Windows, then restart WSL.",
        command="wsl --shutdown",
    )


def wsl_out_of_memory(facts: Facts) -> Finding | None:
    """Under WSL2, CUDA runs out of memory at its start when there are many GPUs.

    Source: https://github.com/microsoft/WSL/issues/10269;
    https://github.com/microsoft/WSL/issues/12467
    """
    failed = [gpu for gpu in tried_gpus(facts) if "out of memory" in (gpu.error or "").lower()]
    if not facts.wsl or num_nvidia(facts) < 2 or not (cuda_error(facts) == 2 or failed):
        return None
    return Finding(
        cause="wsl-out-of-memory",
        explanation="Under WSL2, CUDA runs out of memory when it starts on this many GPUs.",
        evidence=(
            f"NVIDIA GPUs: {num_nvidia(facts)}",
            "CUDA: error 2 (out of memory)"
            if cuda_error(facts) == 2
            else f"no tensor on GPU {', '.join(str(gpu.index) for gpu in failed)}: out of memory",
        ),
        remedy="Show CUDA fewer GPUs, give WSL more memory in .wslconfig, and update WSL and the "
        "driver; Linux itself has no such limit.",
        command="export CUDA_VISIBLE_DEVICES=0,1",
    )


def _number(facts: Facts, name: str) -> int:
    value = variable(facts, name) or ""
    return int(value) if value.isdecimal() else 0


def _listed(facts: Facts, name: str) -> int:
    value = variable(facts, name)
    return len(value.split(",")) if value else 0
