"""What all tests share: our strategies are registered, and results do not depend on threads."""

import logging
import os
from collections.abc import Iterator

import pytest
import torch

from lightning_app import strategies

SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@pytest.fixture(scope="session", autouse=True)
def _setting() -> None:
    torch.set_num_threads(1)  # two cores are shared by up to eight ranks
    strategies.register()
    logging.getLogger("lightning").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def _unseeded() -> Iterator[None]:
    """A run of the command line in this process seeds it, which later tests shall not see."""
    for name in SEEDS:
        os.environ.pop(name, None)
    yield
    for name in SEEDS:
        os.environ.pop(name, None)


# A test module that uses one of these starts processes, or a browser.
STARTS = {
    "tests.command": "process",
    "tests.live_program": "process",
    "tests.ranks": "process",
    "tests.train_to_end": "process",
    "tests.wild.processes": "process",
    "benchmarks.timing": "process",
    "subprocess": "process",
    "multiprocessing": "process",
    "selenium": "browser",
}


def marks(module: object) -> set[str]:
    """The marks that a test module has by what it uses."""
    names = {getattr(value, "__module__", None) for value in vars(module).values()}
    names |= {getattr(value, "__name__", None) for value in vars(module).values()}
    return {
        mark
        for start, mark in STARTS.items()
        if any(isinstance(name, str) and (name + ".").startswith(start + ".") for name in names)
    }


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found: dict[object, set[str]] = {}
    for item in items:
        module = getattr(item, "module", None)
        if module not in found:
            found[module] = marks(module) if module else set()
        for mark in found[module]:
            item.add_marker(mark)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU that PyTorch can use"))
