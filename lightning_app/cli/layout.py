"""Resolves what was asked for into a layout this machine has: pure, given the number of GPUs."""

from dataclasses import dataclass, replace
from typing import Any

from lightning_app.processes.placement import SLURM, TORCHRUN, Placement

DOCTOR = "python -m lightning_app.doctor"
APPLE = "one Apple GPU, which takes one rank"
APPLE_ALONE = f"{APPLE} without --strategy"

Devices = int | list[int] | str


@dataclass(frozen=True)
class Layout:
    """Where a run's ranks are: what the Trainer's flags of the same names take.

    Attributes:
        accelerator: `auto`, `cpu`, `gpu`, …
        devices: How many, or which by their numbers, or `auto`.
        num_nodes: Machines, each with as many devices.
        strategy: A registered name, or `auto`; anything else (a class path) is left as it is.
    """

    accelerator: Any = "auto"
    devices: Devices = "auto"
    num_nodes: int = 1
    strategy: Any = "auto"


_STARTED_BY_LIGHTNING = ("ddp_spawn", "ddp_fork", "ddp_notebook")


def follow(asked: Layout, placed: Placement | None, starts_nodes: bool = False) -> Layout:
    """Take the ranks that a launcher has started; flags that were left out follow it.

    Args:
        asked: The layout asked for.
        placed: Where the launcher has put this process; `None` without one.
        starts_nodes: Whether, without one, it is told how several hosts find each other.

    Returns:
        The layout asked for, with the launcher's numbers.

    Raises:
        ValueError: A flag contradicts the launcher, or there are several nodes and none.
    """
    if placed is None:
        if asked.num_nodes > 1 and asked.strategy != "dp" and not starts_nodes:
            per_node = count_devices(asked.devices) or 1
            raise ValueError(
                f"--num_nodes {asked.num_nodes}: nothing here starts the other nodes' processes; "
                f"on each node: torchrun --nnodes {asked.num_nodes} --nproc-per-node {per_node} "
                "--rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29400 train.py …, without "
                "--num_nodes and --devices"
            )
        return asked
    name, here = placed.launcher, placed.local_world_size
    count, wants = count_devices(asked.devices), {TORCHRUN: "--nproc-per-node"}
    if count not in (None, here) and (placed.world_size > 1 or asked.strategy != "dp"):
        option = wants.get(name, "--ntasks-per-node")
        raise ValueError(
            f"--devices {_text(asked.devices)}: {name} has started {_processes(here)} on this "
            f"host; leave the flag out, or start as many by `{name} {option} {count}`"
        )
    if asked.num_nodes not in (1, placed.num_nodes):
        option = "-N" if name == SLURM else "--nnodes"
        raise ValueError(
            f"--num_nodes {asked.num_nodes}: {name} has started the run on {placed.num_nodes}; "
            f"leave the flag out, or start it by `{name} {option} {asked.num_nodes}`"
        )
    if placed.world_size == 1:
        return asked if count else replace(asked, devices=1, num_nodes=1)
    if asked.strategy in ("dp", "single_device", *_STARTED_BY_LIGHTNING):
        raise ValueError(
            f"--strategy {asked.strategy}: {name} has started {_processes(placed.world_size)}, "
            "which train together under `--strategy ddp`: use that, or leave the flag out"
        )
    return replace(
        asked,
        devices=asked.devices if count else here,
        num_nodes=placed.num_nodes,
        strategy="ddp" if asked.strategy == "auto" else asked.strategy,
    )


def _processes(number: int) -> str:
    return f"{number} process{'' if number == 1 else 'es'}"


def resolve(
    asked: Layout, num_gpus: int, has_mps: bool = False, max_cpu_ranks: int = 1024
) -> tuple[Layout, str | None]:
    """Take what there is.

    With the accelerator `auto`, missing GPUs are made up for: by those there are, or by as many
    CPU ranks where there is none. The numbers of a run do not depend on its layout. With `gpu`,
    missing ones are an error.

    Args:
        asked: The layout asked for.
        num_gpus: CUDA devices that PyTorch sees.
        has_mps: Whether there is an Apple GPU, which takes one rank.
        max_cpu_ranks: How many ranks the CPUs may be shared by.

    Returns:
        The layout to run, and the line that warns of less than was asked for, or `None`.

    Raises:
        ValueError: A value is not allowed, GPUs demanded by name are missing, or there would be
            too many ranks on the CPUs.
    """
    devices, count = parse_devices(asked.devices), count_devices(asked.devices)
    if asked.num_nodes < 1:
        raise ValueError(f"--num_nodes {asked.num_nodes}: it must be 1 or more")
    asked_for, accelerator, missing = f"--devices {_text(devices)}", asked.accelerator, None
    if accelerator == "auto":
        accelerator, missing = _automatic(asked, num_gpus, has_mps)
    is_apple = has_mps and accelerator in ("gpu", "mps")
    if accelerator == "cpu":
        devices = count or 1
        if devices > max_cpu_ranks:
            raise ValueError(
                f"{asked_for}: at most {max_cpu_ranks} ranks can share the CPUs of this machine"
            )
    elif is_apple or accelerator in ("gpu", "cuda"):
        num_gpus = 1 if is_apple else num_gpus
        devices = _existing(devices, num_gpus)
        if devices in (0, []) or (count and count_devices(devices) != count):
            missing = APPLE if is_apple else _counted(num_gpus, "GPU")
            devices = devices or [0]
    why = "" if has_mps else f"; {DOCTOR} tells why"
    if missing and asked.accelerator != "auto":
        raise ValueError(
            f"--accelerator {asked.accelerator} {asked_for}: PyTorch sees {missing}{why}; "
            "`--accelerator auto` takes what there is"
        )
    resolved = replace(asked, accelerator=accelerator, devices=devices)
    resolved = replace(resolved, strategy=_strategy(resolved))
    if missing is None:
        return resolved, None
    if missing == APPLE_ALONE:
        asked_for = f"--strategy {_name(asked.strategy)}"
    got = _taken(devices, "CPU rank" if accelerator == "cpu" else "GPU")
    return resolved, f"asked for {asked_for}, found {missing}: running on {got}{why}"


def _automatic(asked: Layout, num_gpus: int, has_mps: bool) -> tuple[str, str | None]:
    """The accelerator to take, and what is missing for the one asked for."""
    count = count_devices(asked.devices)
    if has_mps:
        if count not in (None, 1):
            return "cpu", APPLE
        is_alone = asked.strategy in ("auto", "single_device")
        return ("mps", None) if is_alone else ("cpu", APPLE_ALONE)
    if num_gpus:
        return "gpu", None
    return "cpu", "no usable GPU" if count else None


def parse_devices(devices: Devices) -> Devices:
    """Read a `--devices` value.

    Returns:
        A number of devices (`-1`: all), device numbers, or `auto`.

    Raises:
        ValueError: It is none of these.
    """
    error = ValueError(
        f"--devices {_text(devices)}: it must be a positive number, a list like 0,1, -1 for all, "
        "or auto"
    )
    if isinstance(devices, str) and devices != "auto":
        try:
            text = devices.strip()
            is_list = "," in text or "[" in text
            inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
            numbers = [int(part) for part in inner.rstrip().removesuffix(",").split(",")]
        except ValueError:
            raise error from None
        devices = numbers if is_list else numbers[0]
    if isinstance(devices, list):
        if not devices or min(devices) < 0 or len(set(devices)) < len(devices):
            raise error
    elif not isinstance(devices, str) and devices < 1 and devices != -1:
        raise error
    return devices


def count_devices(devices: Devices) -> int | None:
    """How many devices a `--devices` value asks for; `None` where it leaves that open."""
    devices = parse_devices(devices)
    if isinstance(devices, list):
        return len(devices)
    return None if devices in ("auto", -1) else int(devices)


def _existing(devices: Devices, num_gpus: int) -> Devices:
    if isinstance(devices, list):
        return [number for number in devices if number < num_gpus]
    return min(count_devices(devices) or num_gpus, num_gpus) if num_gpus else 0


def _strategy(layout: Layout) -> Any:
    if layout.strategy == "auto" and (count_devices(layout.devices), layout.num_nodes) == (1, 1):
        return "single_device"
    if layout.strategy == "dp" and layout.num_nodes > 1:
        raise ValueError(
            f"--strategy dp --num_nodes {layout.num_nodes}: replicas live in one process on one "
            "node; use `--strategy ddp`"
        )
    return layout.strategy


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _taken(devices: Devices, unit: str) -> str:
    """How many devices are taken, or which."""
    if isinstance(devices, list):
        return f"{unit}{'' if len(devices) == 1 else 's'} {','.join(map(str, devices))}"
    return _counted(int(devices), unit)


def _name(strategy: Any) -> str:
    return strategy if isinstance(strategy, str) else type(strategy).__name__


def _text(devices: Devices) -> str:
    """As a user writes it: a list of one GPU is not their number."""
    if isinstance(devices, list) and len(devices) > 1:
        return ",".join(map(str, devices))
    return str(devices)
