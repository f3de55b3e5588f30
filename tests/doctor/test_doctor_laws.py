"""Whatever the facts, unknowns included, a diagnosis neither fails nor contradicts itself."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_app.doctor.diagnose import CAUSES, diagnose, exit_code
from lightning_app.doctor.facts import (
    Adapter,
    Build,
    Facts,
    Launch,
    Nvml,
    NvmlGpu,
    Process,
    TorchGpu,
    TorchView,
)
from lightning_app.doctor.plan import lightning_pick, train_line
from lightning_app.doctor.redact import redact
from lightning_app.doctor.rows import not_learnt, rows

from .recorded import NAMES, machine

RECORDED = [machine(name) for name in NAMES]

# At most one of each row can be true of a machine.
EXCLUSIVE = [
    {"cpu-only-build", "torch-not-importable", "driver-too-old"},
    {"cpu-only-build", "amd-card-cuda-build", "nvidia-card-rocm-build"},
    {"cpu-only-build", "arch-not-in-build"},
    {"cpu-only-build", "counted-not-available"},
    {"cpu-only-build", "nvml-not-cuda"},
    {"cpu-only-build", "slurm-binding"},
    {"cpu-only-build", "mps-unavailable"},
    {"no-driver", "driver-too-old"},
    {"no-driver", "container-without-gpus"},
    {"driver-too-old", "driver-mismatch"},
    {"driver-too-old", "counted-not-available", "fabric-manager-missing", "cuda-unknown-error"},
    {"counted-not-available", "no-driver", "driver-mismatch"},
    {"nvml-not-cuda", "counted-not-available"},
    {"wsl-sli", "nvml-not-cuda", "container-without-gpus"},
    {"environment-changed", "cuda-before-fork"},
    {"slurm-binding", "visible-devices-subset"},
    {cause for cause in CAUSES if cause.startswith("visible-devices")},
    {"mps-unavailable", "adapter-without-cuda"},
]


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def several(values: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    return maybe(st.lists(values, max_size=most).map(tuple))


def one_of(*values: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, *values])


COUNT = one_of(0, 1, 2, 3)
FLAG = one_of(True, False)
PLACE = one_of("0000:01:00.0", "0000:41:00.0", "0000:81:00.0")
UUID = one_of("GPU-aa11", "GPU-aa22", "GPU-bb33")
MESSAGE = one_of(
    "The NVIDIA driver on your system is too old (found version 12020).",
    "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
    "CUDA unknown error - this may be due to an incorrectly set up environment",
    "something else",
)
NVML_ERROR = one_of(
    "NVML_ERROR_LIBRARY_NOT_FOUND",
    "NVML_ERROR_DRIVER_NOT_LOADED",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH",
    "NVML_ERROR_GPU_IS_LOST",
    "NVML_ERROR_UNKNOWN",
)
CAPABILITY = one_of("8.9", "12.0", "5.0", "?", "")
ADAPTERS = st.builds(
    Adapter,
    vendor=one_of("nvidia", "amd", "intel", "apple", "other"),
    name=one_of("Card", ""),
    bus_id=PLACE,
    revision=one_of(161, 255),
    driver=one_of("nvidia", "nouveau"),
    problem_code=one_of(0, 43),
)
NVML_GPUS = st.builds(
    NvmlGpu,
    index=COUNT,
    name=one_of("Card"),
    bus_id=PLACE,
    uuid=UUID,
    serial=one_of("123"),
    capability=CAPABILITY,
    compute_mode=one_of("default", "exclusive-process", "prohibited"),
    num_processes=COUNT,
    mig=FLAG,
    mig_uuids=several(st.sampled_from(["MIG-1", "MIG-2"])),
    error=NVML_ERROR,
)
TORCH_GPUS = st.builds(
    TorchGpu,
    index=COUNT,
    name=one_of("Card"),
    capability=CAPABILITY,
    bus_id=PLACE,
    allocated=FLAG,
    error=one_of("CUDA out of memory.", "busy or unavailable"),
)
VIEWS = st.builds(
    TorchView,
    device_count=COUNT,
    runtime_count=COUNT,
    is_available=FLAG,
    driver_error=one_of(0, 2, 100, 304, 802, 803, 999),
    message=MESSAGE,
    gpus=several(TORCH_GPUS),
)
ENTRY = st.sampled_from(["0", "1", "5", "-1", "", "all", "GPU-aa11", "GPU-aa", "GPU-x", "MIG-1"])
ENVIRONMENTS = st.fixed_dictionaries(
    {},
    optional={
        "CUDA_VISIBLE_DEVICES": st.lists(ENTRY, max_size=3).map(",".join),
        "CUDA_DEVICE_ORDER": st.sampled_from(["PCI_BUS_ID", "FASTEST_FIRST"]),
        "NVIDIA_VISIBLE_DEVICES": st.sampled_from(["all", "void", "GPU-aa11"]),
        "SLURM_JOB_ID": st.just("1"),
        "SLURM_GPUS_ON_NODE": st.sampled_from(["4", "", "x"]),
        "SLURM_JOB_GPUS": st.sampled_from(["0,1", ""]),
    },
)
ANYTHING: st.SearchStrategy[Facts] = st.builds(
    Facts,
    system=one_of("Linux", "Windows", "Darwin", "BeOS"),
    wsl=FLAG,
    container=FLAG,
    num_cpus=one_of(1, 2),
    interactive=FLAG,
    adapters=several(ADAPTERS),
    kernel_driver=one_of("580.95.05"),
    device_nodes=COUNT,
    environment=maybe(ENVIRONMENTS),
    nvml=maybe(
        st.builds(
            Nvml,
            error=NVML_ERROR,
            driver_version=one_of("535.1"),
            library_version=one_of("580.1"),
            cuda_version=one_of("12.2", "13.0", "x", ""),
            gpus=several(NVML_GPUS),
        )
    ),
    build=maybe(
        st.builds(
            Build,
            version=one_of("2.13.0"),
            cuda=one_of("13.0", "12.6", "x"),
            hip=one_of("7.0"),
            archs=several(st.sampled_from(["sm_80", "sm_120", "compute_90", "gfx90a"])),
            mps=FLAG,
            error=one_of("ImportError"),
        )
    ),
    process=maybe(st.builds(Process, device_count=COUNT, initialized=FLAG, bad_fork=FLAG)),
    here=maybe(VIEWS),
    clean=maybe(VIEWS),
    launch=maybe(
        st.builds(
            Launch,
            launcher=one_of("torchrun", "srun"),
            num_hosts=one_of(2, 128),
            name_is_loopback=FLAG,
            first_host_error=one_of("TimeoutError"),
        )
    ),
)


@st.composite
def mixed(draw: st.DrawFn) -> Facts:
    """A recorded machine with parts of others, or with parts unknown."""
    facts, other = draw(st.sampled_from(RECORDED)), draw(st.sampled_from(RECORDED))
    names = draw(st.sets(st.sampled_from([each.name for each in fields(Facts)][1:-1])))
    blank = draw(st.booleans())
    parts: dict[str, Any] = {n: None if blank else getattr(other, n) for n in names}
    return replace(facts, **parts)


def usable_throughout(facts: Facts) -> bool:
    """Whether every layer of these facts says that every GPU is there and used."""
    nvml, here, build = facts.nvml, facts.here, facts.build
    if nvml is None or here is None or build is None or facts.adapters is None:
        return False
    gpus, tried = nvml.gpus or (), here.gpus or ()
    count = sum(adapter.vendor == "nvidia" for adapter in facts.adapters)
    process = facts.process
    return (
        all(a.revision != 255 and a.problem_code != 43 for a in facts.adapters)
        and build.cuda is not None
        and not (build.hip or build.error)
        and nvml.error is None
        and all(gpu.error is None and not gpu.mig for gpu in gpus)
        and here == facts.clean
        and here.driver_error in (0, None)
        and here.message is None
        and here.is_available is True
        and count == len(gpus) == len(tried) == here.device_count == here.runtime_count
        and all(gpu.allocated for gpu in tried)
        and (process is None or (not process.bad_fork and process.device_count in (None, count)))
        and int((facts.environment or {}).get("SLURM_GPUS_ON_NODE") == "4") * 4 <= count
        and len((facts.environment or {}).get("SLURM_JOB_GPUS", "").split(",")) <= count
        and facts.system != "Darwin"
    )


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(ANYTHING, mixed()))
def test_never_fails_and_never_contradicts_itself(facts: Facts) -> None:
    findings = diagnose(facts)
    named = [finding.cause for finding in findings]
    problems = {finding.cause for finding in findings if finding.severity == "problem"}

    assert len(set(named)) == len(named)
    assert set(named) <= set(CAUSES)
    for exclusive in EXCLUSIVE:
        assert len(exclusive & set(named)) <= 1, exclusive & set(named)
    if "unexplained" in problems:
        assert problems == {"unexplained"}
    if not facts.wsl:
        assert not {"wsl-sli", "wsl-out-of-memory"} & set(named)
    if not facts.container:
        assert "container-without-gpus" not in named
    if (facts.environment or {}).get("CUDA_VISIBLE_DEVICES") is None:
        assert not any(cause.startswith("visible-devices") for cause in named)
    if usable_throughout(facts):
        assert not problems

    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, reverse=True)  # problems before notes
    assert exit_code(findings) == (1 if problems else 0)
    assert all(f.evidence and all(f.evidence) and f.remedy for f in findings)
    assert diagnose(facts) == findings


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(ANYTHING, mixed()))
def test_every_report_can_be_written(facts: Facts) -> None:
    assert all(layer and seen and all(seen) for layer, seen in rows(facts))
    assert all(not_learnt(facts))
    assert train_line(facts).command.startswith("python train.py")
    assert lightning_pick(facts).accelerator in (None, "cuda", "mps", "cpu")
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(ANYTHING, mixed()))
def test_hiding_uuids_changes_no_diagnosis(facts: Facts) -> None:
    hidden = redact(facts)
    assert [f.cause for f in diagnose(hidden)] == [f.cause for f in diagnose(facts)]
    text = json.dumps(hidden.to_json())
    assert "GPU-aa11" not in text
    assert "MIG-1" not in text
    assert '"serial": "123"' not in text


@settings(deadline=None)
@given(
    facts=st.sampled_from([machine(f"healthy-{n}") for n in ("1-gpu", "2-gpus", "8-gpus")]),
    order=st.randoms(use_true_random=False),
    by_uuid=st.booleans(),
)
def test_a_list_of_all_gpus_hides_none(facts: Facts, order: Any, by_uuid: bool) -> None:
    assert facts.nvml is not None
    assert facts.nvml.gpus is not None
    assert usable_throughout(facts)
    entries = [str(gpu.uuid if by_uuid else gpu.index) for gpu in facts.nvml.gpus]
    order.shuffle(entries)
    changed = replace(facts, environment={"CUDA_VISIBLE_DEVICES": ",".join(entries)})
    # Another order than nvidia-smi's was asked for here, so it may be noted, and nothing more.
    assert {f.cause for f in diagnose(changed)} <= {"device-order"}
    assert exit_code(diagnose(changed)) == 0
