"""What all tests share: our strategies are registered, and results do not depend on threads."""

import logging

import pytest
import torch

from lightning_app import strategies


@pytest.fixture(scope="session", autouse=True)
def _setting() -> None:
    torch.set_num_threads(1)  # two cores are shared by up to eight ranks
    strategies.register()
    logging.getLogger("lightning").setLevel(logging.ERROR)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU that PyTorch can use"))
