"""Takes the names of single boards out of facts, without changing what they say."""

from __future__ import annotations

from dataclasses import replace

from lightning_app.doctor.facts import Facts, Nvml

VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""The variables that may name a board."""


def redact(facts: Facts) -> Facts:
    """Replaces UUIDs by stand-ins and drops serial numbers.

    A stand-in is the same wherever its UUID stood, and the beginning of a UUID becomes the
    beginning of the same stand-ins, so a diagnosis stays what it was.

    Args:
        facts: As probed.
    """
    gpus = facts.nvml.gpus if facts.nvml and facts.nvml.gpus else ()
    uuids = [gpu.uuid for gpu in gpus if gpu.uuid]
    uuids += [uuid for gpu in gpus for uuid in gpu.mig_uuids or ()]
    # Numbers of one width, so that no stand-in is the beginning of another.
    stand_ins = {uuid: f"{uuid[:4]}hidden-{i:04d}" for i, uuid in enumerate(dict.fromkeys(uuids))}
    environment = facts.environment and {
        name: _value(value, stand_ins) if name in VARIABLES else value
        for name, value in facts.environment.items()
    }
    return replace(facts, environment=environment, nvml=_nvml(facts.nvml, stand_ins))


def _nvml(nvml: Nvml | None, stand_ins: dict[str, str]) -> Nvml | None:
    if nvml is None or nvml.gpus is None:
        return nvml
    gpus = [
        replace(
            gpu,
            serial=None,
            uuid=gpu.uuid and stand_ins[gpu.uuid],
            mig_uuids=gpu.mig_uuids and tuple(stand_ins[uuid] for uuid in gpu.mig_uuids),
        )
        for gpu in nvml.gpus
    ]
    return replace(nvml, gpus=tuple(gpus))


def _value(value: str, stand_ins: dict[str, str]) -> str:
    entries = value.split(",")
    return ",".join(_entry(entry, stand_ins, entries.index(entry)) for entry in entries)


def _entry(entry: str, stand_ins: dict[str, str], number: int) -> str:
    if entry.startswith("MIG-GPU-"):
        gpu, *instance = entry.removeprefix("MIG-").split("/")
        return "/".join(["MIG-" + _entry(gpu, stand_ins, number), *instance])
    if not entry.startswith(("GPU-", "MIG-")):
        return entry
    meant = [stand_in for uuid, stand_in in stand_ins.items() if uuid.startswith(entry)]
    return meant[0] if len(meant) == 1 else f"{entry[:4]}unlisted-{number:04d}"
