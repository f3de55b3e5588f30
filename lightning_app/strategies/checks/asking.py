"""Which code of the user's reckons with the number of devices, as nothing needs to here.

A batch size that is divided by the number of processes, or data that each takes its part of, is
right under Lightning's own `ddp`. Here it would be divided twice, and nothing would fail.
"""

import inspect
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any

from lightning.pytorch import Trainer

from lightning_app import inside

SIZES = {"world_size", "num_devices", "get_world_size", "device_ids", "num_processes"}
RANKS = {"global_rank", "get_rank"}  # by which data is split; a model asks for them to print, say
FUNCTIONS = {"get_world_size", "get_rank"}  # whose names tell enough; a fleet, too, has devices
OWNERS = {"trainer", "strategy"}
GATHERS = "all_gather"  # which has to know of how many
WITHIN: dict[type, str] = {  # what holds a function
    staticmethod: "__func__",
    classmethod: "__func__",
    property: "fget",
    cached_property: "func",
}
INSTALLED = ("site-packages", "dist-packages")  # which the user cannot change


def asks_for_devices(trainer: Trainer) -> list[str]:
    """The methods of model, callbacks, data that is run over, and its samplers that ask."""
    parts = ("dataset", "dataset.dataset", "sampler", "batch_sampler")  # the second of a `Subset`
    data = [trainer.datamodule]  # type: ignore[attr-defined]
    data += [_part(loader, path) for loader in inside.running_loaders(trainer) for path in parts]
    found: list[str] = []
    for owner in (trainer.lightning_module, *trainer.callbacks):  # type: ignore[attr-defined]
        found += _asking(owner, SIZES)
    for owner in data:
        found += _asking(owner, SIZES | RANKS)
    return list(dict.fromkeys(found))  # of several loaders


def _part(owner: Any, path: str) -> Any:
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def _asking(owner: object, names: set[str]) -> Iterator[str]:
    for cls in type(owner).__mro__:
        if cls.__module__.startswith("lightning_app."):
            continue
        for name, member in vars(cls).items():
            attribute = WITHIN.get(type(member))
            function = getattr(member, attribute) if attribute else member
            if not inspect.isfunction(function):
                continue
            code = getattr(inspect.unwrap(function), "__code__", None)
            if not isinstance(code, CodeType) or is_installed(code):
                continue
            # A callback is given the Trainer.
            used = {*names_in(code), *OWNERS.intersection(code.co_varnames)}
            asked = names & used & (FUNCTIONS if not OWNERS & used else names)
            if asked and GATHERS not in used:
                yield f"{cls.__name__}.{name} asks for {min(asked)}"


def is_installed(code: CodeType) -> bool:
    """Whether a function is of a library."""
    return any(folder in Path(code.co_filename).parts for folder in INSTALLED)


def names_in(code: CodeType) -> Iterator[str]:
    """The names of attributes and functions that a function uses, and those within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)
