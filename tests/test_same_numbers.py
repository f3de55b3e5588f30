"""The promise: the same weights and curves, in float64 to 1e-12, on any layout."""

from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from typing_extensions import override

from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from tests.ranks import run_ranks
from tests.runs import Run, assert_same, assert_same_weights, fit

Case = tuple[int, int, str, int]
ALL_CASES: list[Case] = list(
    product(
        (1, 7, 30, 100),  # batch size
        (100, 101),  # samples
        ("sgd", "adamw"),
        (1, 3),  # accumulated batches
    )
)
CASES: list[Case] = [  # any two of these values come together in one of them
    (1, 100, "sgd", 1),
    (1, 101, "adamw", 3),
    (7, 100, "sgd", 3),
    (7, 101, "adamw", 1),
    (30, 100, "adamw", 1),
    (30, 101, "sgd", 3),
    (100, 100, "adamw", 3),
    (100, 101, "sgd", 1),
]


class Momentum(LinearModule):
    """The project's model with an optimizer that has a state."""

    def __init__(self, name: str) -> None:
        super().__init__(log_shapes="off")
        self.name = name

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.name == "adamw":
            return torch.optim.AdamW(self.parameters(), lr=0.01)
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def train(strategy: str, devices: int, case: Case, **more: Any) -> Run:
    batch_size, length, optimizer, accumulate = case
    torch.manual_seed(1)
    data = RandomDataModule(length=length, batch_size=batch_size, val_length=31)
    flags: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": accumulate}
    return fit(strategy, devices, Momentum(optimizer), data, **flags, **more)


def train_all(strategy: str, devices: int, cases: list[Case]) -> list[Run]:
    return [train(strategy, devices, case) for case in cases]


@cache
def on_one_device(case: Case) -> Run:
    return train("single_device", 1, case)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("devices", "cases"),
    [(2, CASES), (3, CASES), *(pytest.param(n, ALL_CASES, marks=pytest.mark.slow) for n in (2, 5))],
)
def test_ddp_gives_the_numbers_of_one_device(devices: int, cases: list[Case]) -> None:
    for runs in run_ranks(train_all, devices, "ddp", devices, cases, timeout_s=280):
        for case, run in zip(cases, runs, strict=True):
            if run.curves:  # rank 0 logs
                assert run.curves.keys() >= {"train/loss", "val/loss", "val/r2"}, case
            assert_same(run, on_one_device(case))


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_dp_gives_the_numbers_of_one_device(devices: int) -> None:
    for case, run in zip(CASES, train_all("dp", devices, CASES), strict=True):
        assert run.curves.keys() >= {"train/loss", "val/loss", "val/r2"}
        assert_same(run, on_one_device(case))


def train_mixed(strategy: str, devices: int) -> Run:
    return train(strategy, devices, (3, 100, "sgd", 1), precision="bf16-mixed")


def test_mixed_precision_gives_the_same_numbers_up_to_its_rounding() -> None:
    single = train_mixed("single_device", 1)
    for run in (train_mixed("dp", 2), *run_ranks(train_mixed, 2, "ddp", 2)):
        assert_same_weights(run, single, tolerance=0.004)  # bfloat16 has 8 bits: 2**-8
