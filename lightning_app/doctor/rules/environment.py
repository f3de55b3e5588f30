"""Rules on the environment and the asking process: which GPUs it hides, and since when."""

from __future__ import annotations

from lightning_app.doctor.facts import Facts
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.layers import (
    cuda_count,
    mask,
    num_maskable,
    nvml_gpus,
    variable,
)
from lightning_app.doctor.rules.surroundings import slurm_binding
from lightning_app.doctor.visible import Stop

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_devices_empty(facts: Facts) -> Finding | None:
    """The variable is set, and empty: no GPU is left.

    Source: NVIDIA's page on the variable, cited in ``visible.py``, as for the next rules.
    """
    return _stopped(facts, "empty", "is set and empty, which hides every GPU")


def visible_devices_out_of_range(facts: Facts) -> Finding | None:
    """An index that no GPU has: it hides itself and all that follow."""
    return _stopped(facts, "out-of-range", "names a GPU that is not there, which cuts off the rest")


def visible_devices_repeated(facts: Facts) -> Finding | None:
    """A GPU named twice: nothing is left.

    Source: https://github.com/pytorch/pytorch/pull/84879
    """
    return _stopped(facts, "repeated", "names a GPU twice, which hides every GPU")


def visible_devices_negative(facts: Facts) -> Finding | None:
    """A negative index, as in the idiom -1: it ends the list."""
    return _stopped(facts, "negative", "has a negative entry, which ends the list there")


def visible_devices_unknown_uuid(facts: Facts) -> Finding | None:
    """A UUID, or the beginning of one, that is not one GPU's: it ends the list."""
    return _stopped(facts, "unknown-uuid", "has a UUID that matches no GPU, which ends the list")


def visible_devices_not_a_device(facts: Facts) -> Finding | None:
    """A word that is neither number nor UUID (``all``, ``NoDevFiles``): it ends the list."""
    return _stopped(facts, "not-a-device", "has an entry that names no GPU, which ends the list")


def visible_devices_subset(facts: Facts) -> Finding | None:
    """The variable leaves out GPUs that are there, on purpose or from a shell profile."""
    left = mask(facts)
    value = variable(facts, VARIABLE)
    # Inside a job the list is SLURM's, and MIG leaves one instance whatever the list says.
    if slurm_binding(facts) or any(gpu.mig for gpu in nvml_gpus(facts)) or _sees_all(facts):
        return None
    if left is not None:
        if left.stop is not None or len(left.indices) >= num_maskable(facts):
            return None
        return _hides(facts, "visible-devices-subset", "lists some of the GPUs and hides the rest")
    without, present = cuda_count(facts.clean), cuda_count(facts.here)
    if value is None or without is None or present is None or present >= without:
        return None
    return _hides(facts, "visible-devices-subset", "hides GPUs that are there without it")


def environment_changed(facts: Facts) -> Finding | None:
    """The variables changed after CUDA had started, when it no longer reads them.

    Source: https://github.com/pytorch/pytorch/issues/95073
    """
    process, fresh = facts.process, cuda_count(facts.here)
    if process is None or not process.initialized or process.bad_fork:
        return None
    if process.device_count is None or fresh is None or process.device_count == fresh:
        return None
    return Finding(
        cause="environment-changed",
        explanation="The environment changed after CUDA had started in this process, which goes on "
        "with what it read then.",
        evidence=(
            f"this process counts {process.device_count}, a fresh one {fresh}",
            f"{VARIABLE} is now {_shown(variable(facts, VARIABLE))}",
        ),
        remedy="Set the variable before Python starts, or before the first use of CUDA; restart "
        "this process (in a notebook, the kernel).",
    )


def cuda_before_fork(facts: Facts) -> Finding | None:
    """A process forked after CUDA had started: CUDA cannot be used in it.

    Source: https://docs.pytorch.org/docs/stable/notes/multiprocessing.html#poison-fork-in-
    multiprocessing
    """
    if facts.process is None or not facts.process.bad_fork:
        return None
    return Finding(
        cause="cuda-before-fork",
        explanation="CUDA had started before this process was forked, so it cannot be used here.",
        evidence=("torch.cuda reports a bad fork in this process",),
        remedy="Do not touch CUDA before forking; or start processes by spawn "
        "(multiprocessing.set_start_method('spawn'), --strategy ddp); in a notebook, restart the "
        "kernel first.",
    )


def interactive_session(facts: Facts) -> Finding | None:
    """At a prompt or in a notebook, Lightning takes one GPU unless a number is given.

    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/
    trainer/connectors/accelerator_connector.py (``_set_devices_flag_if_auto_passed``)
    """
    count = facts.here.device_count if facts.here else None
    if not facts.interactive or count is None or count < 2:
        return None
    return Finding(
        cause="interactive-session",
        explanation="In an interactive session Lightning takes one GPU unless it is told a number.",
        evidence=(f"Python runs interactively, and PyTorch counts {count} GPUs",),
        remedy="Name the number; in the notebook itself, DataParallelStrategy uses all GPUs in "
        "this one process.",
        command=f"python train.py --devices {count} --strategy ddp",
        severity="note",
    )


def _stopped(facts: Facts, stop: Stop, what: str) -> Finding | None:
    left = mask(facts)
    if left is None or left.stop != stop or len(left.indices) >= num_maskable(facts):
        return None
    if _sees_all(facts):
        return None
    return _hides(facts, f"visible-devices-{stop}", what)


def _sees_all(facts: Facts) -> bool:
    """What CUDA counts with the variable outweighs how we read it."""
    return (cuda_count(facts.here) or 0) >= num_maskable(facts)


def _hides(facts: Facts, cause: str, what: str) -> Finding:
    left, count = mask(facts), cuda_count(facts.here)
    entry = [f"reading ends at the entry {left.entry!r}"] if left and left.entry else []
    if left is not None:
        entry.append(f"it leaves {len(left.indices)} of {num_maskable(facts)} GPUs")
    if facts.clean is not None and facts.here is not None:
        entry.append(f"CUDA counts {count} with it, {cuda_count(facts.clean)} without it")
    windows = facts.system == "Windows"
    return Finding(
        cause=cause,
        explanation=f"{VARIABLE} {what}.",
        evidence=(f"{VARIABLE}={_shown(variable(facts, VARIABLE))}", *entry),
        remedy="Unset it, or list in it the GPUs to use, by the numbers of nvidia-smi; look for "
        "where it is set (shell profile, job script, notebook).",
        command=f"Remove-Item Env:{VARIABLE}" if windows else f"unset {VARIABLE}",
    )


def _shown(value: str | None) -> str:
    return "not set" if value is None else f'"{value}"'
