"""What Lightning would pick on this machine, and which ``train.py`` line it can run. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_app.doctor.facts import Facts
from lightning_app.doctor.layers import cuda_count, nvml_gpus, tried_gpus


@dataclass(frozen=True)
class Pick:
    """What ``Trainer(accelerator="auto", devices="auto")`` takes."""

    accelerator: str | None
    """``cuda``, ``mps`` or ``cpu``; None if PyTorch's count is unknown."""
    num_devices: int | None


@dataclass(frozen=True)
class Line:
    """A command that this machine can run, and why this one."""

    command: str
    reason: str


def lightning_pick(facts: Facts) -> Pick:
    """Returns what Lightning takes by itself.

    It asks for Metal first, then takes what ``torch.cuda.device_count()`` says, usable or not, and
    in an interactive session one GPU of several.

    Args:
        facts: What is known of the machine.
    """
    if facts.build is not None and facts.build.mps:
        return Pick("mps", 1)
    if facts.here is None or facts.here.device_count is None:
        return Pick(None, None)
    count = facts.here.device_count
    if not count:
        return Pick("cpu", 1)
    return Pick("cuda", 1 if facts.interactive else count)


def train_line(facts: Facts) -> Line:
    """Returns the ``train.py`` line that uses all this machine can use now.

    Args:
        facts: What is known of the machine.
    """
    if facts.build is not None and facts.build.mps:
        return Line("python train.py --accelerator mps --devices 1", "Metal (MPS) is one device")
    usable = _usable(facts)
    if len(usable) > 1:
        return _on_gpus(usable)
    if usable and any(gpu.mig for gpu in nvml_gpus(facts)):
        return Line("python train.py --devices 1", "CUDA gives a process one MIG instance")
    if usable:
        return Line(f"python train.py --devices {_devices(usable)}", "one GPU can be used")
    return _on_cpu(facts)


def _usable(facts: Facts) -> list[int]:
    """Numbers of the GPUs that can be used, as PyTorch numbers them; what is unknown counts."""
    if facts.here is None or facts.here.is_available is False:
        return []
    if facts.process is not None and facts.process.bad_fork:
        return []
    if facts.here.gpus is None:
        return list(range(cuda_count(facts.here) or 0))
    tried = enumerate(tried_gpus(facts))
    return [position for position, gpu in tried if gpu.allocated is not False]


def _on_gpus(usable: list[int]) -> Line:
    return Line(
        f"python train.py --devices {_devices(usable)} --strategy ddp",
        f"{len(usable)} GPUs can be used, a process on each",
    )


def _on_cpu(facts: Facts) -> Line:
    if facts.build is not None and facts.build.error is not None:
        return Line("python train.py --accelerator cpu", "once PyTorch can be imported")
    if (facts.num_cpus or 1) > 1:
        command = "python train.py --accelerator cpu --devices 2 --strategy ddp"
        return Line(command, "no GPU can be used: two ranks on the CPU, the same numbers")
    return Line("python train.py --accelerator cpu --devices 1", "no GPU can be used")


def _devices(usable: list[int]) -> str:
    """The first N as a number, any others as Lightning's list; it takes ``1,`` for GPU 1 alone."""
    if usable == list(range(len(usable))):
        return str(len(usable))
    return ",".join(map(str, usable)) + ("," if len(usable) == 1 else "")
