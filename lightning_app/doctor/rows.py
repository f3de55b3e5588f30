"""The rows of the report's table: each layer, and what it sees. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_app.doctor.facts import Adapter, Facts, Launch, NvmlGpu, TorchGpu, TorchView
from lightning_app.doctor.plan import lightning_pick

Row = tuple[str, list[str]]


def rows(facts: Facts) -> list[Row]:
    """Returns the layers from the operating system up to Lightning, with a line for each GPU.

    Args:
        facts: What is known of the machine.
    """
    asked = [("This process", _process(facts))] if facts.process is not None else []
    return [
        ("System", [_system(facts)]),
        ("Display adapters", _adapters(facts)),
        ("NVIDIA driver", _driver(facts)),
        ("Environment", _environment(facts)),
        ("PyTorch build", _build(facts)),
        *asked,
        ("PyTorch counts", _counts(facts)),
        ("One tensor each", _tensors(facts)),
        ("Lightning picks", [_pick(facts)]),
        *([("Other hosts", [_hosts(facts.launch)])] if facts.launch is not None else []),
    ]


def _hosts(launch: Launch) -> str:
    first = "not reached" if launch.first_host_error else "reached, or not named"
    return f"{_known(launch.num_hosts)} hosts by {launch.launcher or '?'}; the first: {first}"


def not_learnt(facts: Facts) -> list[str]:
    """Returns what the rows cannot show, and why, a line each.

    Args:
        facts: What is known of the machine.
    """
    lines = list(facts.unknown)
    if facts.nvml is not None and facts.nvml.error is not None:
        lines.append(f"GPUs as the NVIDIA driver lists them: {facts.nvml.error}")
    if facts.here is None and facts.build is not None and facts.build.error is None:
        lines.append("PyTorch's count: the fresh process hung or crashed while counting")
    if facts.container and facts.adapters == ():
        lines.append("GPUs of the host: this container's /sys shows none")
    return lines


def _system(facts: Facts) -> str:
    system = "macOS" if facts.system == "Darwin" else facts.system or "unknown"
    parts = [
        f"{system} under WSL2" if facts.wsl else system,
        "in a container" if facts.container else "",
        "interactive" if facts.interactive else "",
        f"{facts.num_cpus} CPUs" if facts.num_cpus else "",
    ]
    return ", ".join(part for part in parts if part)


def _adapters(facts: Facts) -> list[str]:
    if facts.adapters is None:
        return ["unknown"]
    return [_adapter(i, each) for i, each in enumerate(facts.adapters)] or ["none"]


def _adapter(number: int, adapter: Adapter) -> str:
    vendor = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "apple": "Apple"}
    maker = vendor.get(adapter.vendor or "", adapter.vendor or "unknown vendor")
    marks = [
        adapter.bus_id,
        f"driver {adapter.driver}" if adapter.driver else "",
        "revision ff" if adapter.revision == 255 else "",
        f"problem code {adapter.problem_code}" if adapter.problem_code else "",
    ]
    return _with_marks(f"{number}: {adapter.name or maker}", marks)


def _driver(facts: Facts) -> list[str]:
    nvml = facts.nvml
    if nvml is None:
        return [
            "unknown",
            *([f"kernel module {facts.kernel_driver}"] if facts.kernel_driver else []),
        ]
    if nvml.error is not None:
        module = f"kernel module {facts.kernel_driver}" if facts.kernel_driver else ""
        return [_with_marks(nvml.error, [module])]
    head = f"{nvml.driver_version or 'unknown version'}, CUDA up to {nvml.cuda_version or '?'}"
    if nvml.gpus is None:
        return [head, "GPUs unknown"]
    return [head, *([_nvml_gpu(gpu) for gpu in nvml.gpus] or ["no GPU"])]


def _nvml_gpu(gpu: NvmlGpu) -> str:
    instances = "?" if gpu.mig_uuids is None else len(gpu.mig_uuids)
    marks = [
        gpu.bus_id,
        f"capability {gpu.capability}" if gpu.capability else "",
        gpu.compute_mode if gpu.compute_mode not in (None, "default") else "",
        f"MIG, instances: {instances}" if gpu.mig else "",
        gpu.error,
        gpu.uuid if gpu.uuid and "hidden" not in gpu.uuid else "",
        f"serial {gpu.serial}" if gpu.serial else "",
    ]
    return _with_marks(f"{gpu.index}: {gpu.name or 'a GPU'}", marks)


def _environment(facts: Facts) -> list[str]:
    if facts.environment is None:
        return ["unknown"]
    values = [f"{name}={value or '(empty)'}" for name, value in facts.environment.items()]
    return values or ["no variable that chooses devices is set"]


def _build(facts: Facts) -> list[str]:
    build = facts.build
    if build is None:
        return ["unknown"]
    if build.error is not None:
        return [f"cannot be imported: {build.error}"]
    target = f"CUDA {build.cuda}" if build.cuda else f"ROCm {build.hip}" if build.hip else ""
    target = target or ("Metal (MPS)" if build.mps else "CPU only")
    archs = [" ".join(build.archs)] if build.archs else []
    return [f"{build.version or 'unknown version'}, {target}", *archs]


def _process(facts: Facts) -> list[str]:
    process = facts.process
    assert process is not None
    started = {True: "has started", False: "has not started", None: "unknown"}[process.initialized]
    fork = ["forked after CUDA had started"] if process.bad_fork else []
    return [f"counts {_known(process.device_count)}, CUDA {started}", *fork]


def _counts(facts: Facts) -> list[str]:
    if facts.here == facts.clean or facts.clean is None:
        return _view("", facts.here)
    return _view("as set: ", facts.here) + _view("without the variables: ", facts.clean)


def _view(label: str, view: TorchView | None) -> list[str]:
    if view is None:
        return [f"{label}unknown"]
    available = {True: "available", False: "not available", None: "availability unknown"}
    runtime = f", CUDA itself {view.runtime_count}" if view.runtime_count is not None else ""
    error = f", CUDA error {view.driver_error}" if view.driver_error else ""
    line = f"{label}{_known(view.device_count)}{runtime}, {available[view.is_available]}{error}"
    return [line, *([view.message] if view.message else [])]


def _tensors(facts: Facts) -> list[str]:
    if facts.here is None or facts.here.gpus is None:
        return ["not tried"]
    return [_tensor(gpu) for gpu in facts.here.gpus] or ["no GPU to try"]


def _tensor(gpu: TorchGpu) -> str:
    result = {True: "ok", False: gpu.error or "failed", None: "unknown"}[gpu.allocated]
    name = _with_marks(f"{gpu.index}: {gpu.name or 'a GPU'}", [gpu.bus_id])
    return f"{name}: {result}"


def _pick(facts: Facts) -> str:
    pick = lightning_pick(facts)
    if pick.accelerator is None:
        return "unknown"
    return f"{pick.accelerator}, {pick.num_devices} device{'s' * (pick.num_devices != 1)}"


def _known(count: int | None) -> str:
    return "unknown" if count is None else str(count)


def _with_marks(text: str, marks: Sequence[str | None]) -> str:
    """A text, and in brackets those of its marks that there are."""
    shown = [mark for mark in marks if mark]
    return f"{text} ({', '.join(shown)})" if shown else text
