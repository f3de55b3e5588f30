"""Rules on the installed PyTorch: is it built for the GPUs that are here?"""

from __future__ import annotations

import re

from lightning_app.doctor.facts import Adapter, Facts
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.layers import adapters, has_cuda_build, nvml_gpus, tried_gpus

SELECTOR = "https://pytorch.org/get-started/locally/"


def torch_not_importable(facts: Facts) -> Finding | None:
    """``import torch`` fails.

    Source: https://docs.python.org/3/reference/import.html
    """
    if facts.build is None or facts.build.error is None:
        return None
    return Finding(
        cause="torch-not-importable",
        explanation="PyTorch cannot be imported, so it sees no device at all.",
        evidence=(f"import torch: {facts.build.error}",),
        remedy=f"Install PyTorch again, with the command that {SELECTOR} gives for this machine.",
    )


def cpu_only_build(facts: Facts) -> Finding | None:
    """A CPU-only build beside a GPU: what the package index gives on Windows.

    Source: https://pytorch.org/get-started/locally/ (the builds by platform)
    """
    build = facts.build
    if build is None or build.version is None or build.cuda or build.hip or build.error:
        return None
    cards = adapters(facts, "nvidia") or adapters(facts, "amd")
    names = [_named(card) for card in cards] or [gpu.name or "a GPU" for gpu in nvml_gpus(facts)]
    if facts.system == "Darwin" or not names:
        return None
    kind = "ROCm (for an AMD GPU)" if cards and cards[0].vendor == "amd" else "CUDA"
    by_default = facts.system == "Linux" and kind == "CUDA"
    return Finding(
        cause="cpu-only-build",
        explanation="The installed PyTorch is a CPU-only build: it cannot use any GPU.",
        evidence=(
            f"PyTorch {build.version}: torch.version.cuda is None, torch.version.hip is None",
            "present: " + ", ".join(names),
        ),
        remedy=f"Install a {kind} build, with the command that {SELECTOR} gives; "
        "on Windows the package index itself holds CPU-only builds.",
        command="pip install --force-reinstall torch" if by_default else None,
    )


def amd_card_cuda_build(facts: Facts) -> Finding | None:
    """An AMD card, and PyTorch built for NVIDIA's.

    Source: https://docs.pytorch.org/docs/stable/notes/hip.html
    """
    cards = adapters(facts, "amd")
    if not (has_cuda_build(facts) and cards) or adapters(facts, "nvidia") or nvml_gpus(facts):
        return None
    assert facts.build is not None
    return Finding(
        cause="amd-card-cuda-build",
        explanation="The GPU is AMD's, and this PyTorch is built for NVIDIA's CUDA.",
        evidence=(
            f"PyTorch {facts.build.version}: torch.version.cuda is {facts.build.cuda}",
            "present: " + ", ".join(_named(card) for card in cards),
        ),
        remedy="Install the ROCm build if AMD lists this GPU as supported; "
        f"{SELECTOR} gives the command.",
    )


def nvidia_card_rocm_build(facts: Facts) -> Finding | None:
    """An NVIDIA card, and PyTorch built for AMD's.

    Source: https://docs.pytorch.org/docs/stable/notes/hip.html
    """
    cards = adapters(facts, "nvidia")
    if facts.build is None or facts.build.hip is None or not (cards or nvml_gpus(facts)):
        return None
    names = [_named(card) for card in cards] or [gpu.name or "a GPU" for gpu in nvml_gpus(facts)]
    return Finding(
        cause="nvidia-card-rocm-build",
        explanation="The GPU is NVIDIA's, and this PyTorch is built for AMD's ROCm.",
        evidence=(
            f"PyTorch {facts.build.version}: torch.version.hip is {facts.build.hip}",
            "present: " + ", ".join(names),
        ),
        remedy=f"Install a CUDA build, with the command that {SELECTOR} gives.",
    )


def arch_not_in_build(facts: Facts) -> Finding | None:
    """No code for the GPU's architecture in the build: the card is too new or too old for it.

    Source: https://docs.nvidia.com/cuda/cuda-programming-guide/ (binary and PTX compatibility);
    https://github.com/pytorch/pytorch/issues/31285
    """
    build = facts.build
    if build is None or build.cuda is None or not build.archs:
        return None
    gpus = tried_gpus(facts) or nvml_gpus(facts)
    without = [
        f"{gpu.name or f'GPU {gpu.index}'} has compute capability {gpu.capability}"
        for gpu in gpus
        if gpu.capability and runs_on(build.archs, gpu.capability) is False
        # A tensor that was computed outweighs what the list says.
        if getattr(gpu, "allocated", None) is not True
    ]
    if not without:
        return None
    return Finding(
        cause="arch-not-in-build",
        explanation="This PyTorch build holds no code for the architecture of a GPU.",
        evidence=(*without, f"PyTorch {build.version} is built for {' '.join(build.archs)}"),
        remedy="Install a PyTorch build for it: a newer one for a newer GPU, one of an older CUDA "
        f"for an older GPU; {SELECTOR} lists both.",
    )


def mps_unavailable(facts: Facts) -> Finding | None:
    """Apple's GPU, but no Metal in this Python.

    Source: https://docs.pytorch.org/docs/stable/notes/mps.html; Lightning asks for an ARM Python:
    https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/fabric/accelerators/mps.py
    """
    cards = adapters(facts, "apple")
    if facts.system != "Darwin" or not cards or facts.build is None or facts.build.mps is not False:
        return None
    return Finding(
        cause="mps-unavailable",
        explanation="The Mac has an Apple GPU, and this PyTorch cannot use Metal (MPS).",
        evidence=(
            "present: " + ", ".join(_named(card) for card in cards),
            f"PyTorch {facts.build.version}: MPS is not available",
        ),
        remedy="Use an ARM (not Rosetta) Python and a current macOS, and leave DISABLE_MPS unset.",
    )


def adapter_without_cuda(facts: Facts) -> Finding | None:
    """Graphics of Intel or AMD, which the system counts as GPUs and CUDA does not.

    Source: https://developer.nvidia.com/cuda-gpus (CUDA runs on NVIDIA GPUs)
    """
    others = adapters(facts, "intel", "amd")
    nvidia = adapters(facts, "nvidia") or nvml_gpus(facts)
    if not nvidia:
        others = adapters(facts, "intel")
    if facts.system == "Darwin" or not others or (facts.build is not None and facts.build.hip):
        return None
    listed = len(facts.adapters or ())
    return Finding(
        cause="adapter-without-cuda",
        explanation="The operating system counts graphics adapters that have no CUDA: "
        "only NVIDIA GPUs have it.",
        evidence=(
            f"display adapters: {listed}, of which NVIDIA: {len(adapters(facts, 'nvidia'))}",
            "without CUDA: " + ", ".join(_named(each) for each in others),
        ),
        remedy="Nothing to repair: train on the NVIDIA GPUs and leave the display to the other."
        if nvidia
        else "Nothing to repair: train on the CPU, or add an NVIDIA GPU.",
        severity="note",
    )


def runs_on(archs: tuple[str, ...], capability: str) -> bool | None:
    """Returns whether a build holds code for a GPU; None if a name cannot be read.

    Machine code (``sm_80``) runs on its major version from its minor version on, one with an
    ``a`` only on its very architecture; PTX (``compute_80``) runs on anything as new or newer.

    Args:
        archs: Architectures of the build.
        capability: Compute capability of the GPU, ``8.9``.
    """
    try:
        major, minor = (int(part) for part in capability.split("."))
    except ValueError:
        return None
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch) for arch in archs]
    if not all(known):
        return None
    return any(
        _covers(match[1], (int(match[2]), int(match[3])), match[4], (major, minor))
        for match in known
        if match
    )


def _covers(kind: str, code: tuple[int, int], suffix: str, gpu: tuple[int, int]) -> bool:
    if suffix == "a":
        return code == gpu
    if kind == "compute" and not suffix:
        return gpu >= code
    return gpu[0] == code[0] and gpu[1] >= code[1]


def _named(card: Adapter) -> str:
    """An adapter by its name, or by its place where the system gives no name."""
    maker = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "apple": "Apple"}
    return card.name or f"{maker.get(card.vendor or '', 'an unknown')} adapter at {card.bus_id}"
