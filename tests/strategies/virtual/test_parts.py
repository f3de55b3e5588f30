"""What each virtual rank begins with, and what is given back: streams, buffers, settings."""

import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import nn
from torch.distributed import all_reduce
from torch.distributed._functional_collectives import all_reduce as functional_all_reduce
from torch.distributed.nn import functional as of_autograd
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.wrappers import MinMaxMetric

from lightning_app.strategies.checks.alone import COLLECTIVES, Alone
from lightning_app.strategies.virtual import refused
from lightning_app.strategies.virtual.determinism import fixed_kernels
from lightning_app.strategies.virtual.gradients import Gradients, add
from lightning_app.strategies.virtual.part_logs import Logged, _mean
from lightning_app.strategies.virtual.passes import Drawn, SeededSamples
from lightning_app.strategies.virtual.streams import given_back, seed_of, seed_streams
from lightning_app.telemetry.surroundings import changes


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.rand())


def test_streams_are_those_of_their_purpose_and_are_given_back() -> None:
    draw()
    outside = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index]
    with given_back():
        seed_streams(seed_of(1, "training_step", 0, 0, 7, 3))
        first = draw()
        draw()
        seed_streams(seed_of(1, "training_step", 0, 0, 7, 3))
        assert draw() == first
        seed_streams(seed_of(1, "training_step", 0, 0, 7, 4))
        others = draw()
        assert all(a != b for a, b in zip(first, others, strict=True))
    inside = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index]
    assert torch.equal(inside[0], outside[0])
    assert inside[1:] == outside[1:]


class Augmented(Dataset[Any]):
    """Draws for each sample; has an attribute that may be set."""

    scale = 1.0

    def __getitem__(self, index: int) -> Any:
        return index * self.scale + torch.rand(())

    def __len__(self) -> int:
        return 4


def test_a_seeded_data_set_is_the_data_set_but_for_its_streams() -> None:
    data = Augmented()
    seeded: Any = SeededSamples(data)
    assert type(seeded) is not Augmented
    assert isinstance(seeded, type(data))
    assert len(seeded) == 4
    seeded = cast(Any, seeded)
    with given_back():
        first = seeded[Drawn(1, 5)]
        assert torch.equal(first, seeded[Drawn(1, 5)])
        assert not torch.equal(first, seeded[Drawn(1, 6)])
        seeded.scale = 2.0  # as a `worker_init_fn` may
        assert data.scale == 2.0
        assert not hasattr(seeded, "__getitems__")
        subset: Any = SeededSamples(Subset(data, [3, 2]))
        assert len(subset.__getitems__([Drawn(0, 1), Drawn(1, 2)])) == 2
        copy = pickle.loads(pickle.dumps(seeded))
        assert torch.equal(copy[Drawn(1, 5)], seeded[Drawn(1, 5)])
    assert isinstance(DataLoader(data).dataset, Augmented)


def test_gradients_are_taken_summed_and_added_to_what_there_was() -> None:
    used, unused = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2))
    half = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    used.grad = torch.full((2, 3), 10.0)
    gradients = Gradients([used, unused, half], divisor=4)
    total = None
    for factor in (1.0, 2.0):
        loss: Any = (used * factor).sum() + (half * factor).sum()
        loss.backward()
        taken = gradients.take()
        assert [(len(flat), flat.dtype) for flat in taken] == [
            (8, torch.float32),
            (4, torch.bfloat16),
        ]
        total = taken if total is None else add(total, taken)
    gradients.give_back()
    assert used.grad.eq(10).all()
    assert half.grad is None
    assert total is not None
    gradients.place(total)
    assert used.grad.eq(13).all()
    assert unused.grad is None
    assert half.grad is not None


@pytest.mark.parametrize(
    ("weights", "mean", "weight"),
    [
        ((4, 3, 3), 1.9, 10),  # the sizes of parts
        ((30, 30, 30), 1.9, 30),  # that of a full batch
        ((7, 7, 7), 2.0, 21),  # of parts alike, as words are
        ((1, 1, 1), 1.9, 1),
        ((None, None, None), 1.9, 10),  # not known
        ((2, 1, 1), 1.75, 4),  # something else, as words
    ],
)
def test_what_a_logged_value_weighs(weights: Any, mean: float, weight: float) -> None:
    parts = [
        Logged({}, value, w, torch.float32, False)
        for value, w in zip((1.0, 2.0, 3.0), weights, strict=True)
    ]
    found = _mean(parts, [4.0, 3.0, 3.0], [4.0, 3.0, 3.0], full_size=30)
    assert found == pytest.approx((mean, weight))


def test_kernels_are_fixed_for_a_gpu_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn

    def settings() -> tuple[Any, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic),
            os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        )

    before = settings()
    with fixed_kernels(torch.device("cuda", 0)):
        assert settings() == (True, "highest", (False, False, True), ":4096:8")
    assert settings() == before


def test_what_is_compiled_runs_uncompiled() -> None:
    def backend(*args: Any) -> Any:
        raise NotImplementedError

    compiled = torch.compile(lambda x: x + 1, backend=backend)
    with fixed_kernels(torch.device("cpu")):
        assert compiled(torch.ones(1)) == 2
    with pytest.raises(Exception, match="NotImplementedError"):
        compiled(torch.ones(1))


class Measured(LightningModule):
    """Has metrics, one of them within another."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = MeanMetric(sync_on_compute=False)
        self.best = MinMaxMetric(MeanMetric())
        self.synced = MeanMetric(dist_sync_on_step=True)
        self.all = MetricCollection({"mean": MeanMetric()})


def test_what_waits_for_others_is_refused_while_parts_run(tmp_path: Path) -> None:
    t, model = torch.ones(1), Measured()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    world: Any = dist.group.WORLD
    calls: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: all_reduce(t),
        "broadcast": lambda: dist.broadcast(t, 0),
        "all_gather": lambda: dist.all_gather_object([None], 1),
        "reduce": lambda: of_autograd.reduce(t, 0),  # type: ignore[no-untyped-call]
        "barrier": lambda: dist.barrier(),
        "monitored_barrier": lambda: dist.monitored_barrier(),
        "broadcast in": lambda: dist.scatter_object_list([None], [1]),
        "a new process group": lambda: dist.new_group([0]),
        "a new process group in": lambda: dist.new_subgroups(1),  # type: ignore[no-untyped-call]
        "a functional collective": lambda: functional_all_reduce(t, "sum", world) + 0,
        "MeanMetric.compute()": lambda: measured(MeanMetric()).compute(),
        "alone.compute()": model.alone.compute,
        "synced with dist_sync_on_step=True": lambda: model.synced(t),
        "best.compute()": lambda: model.best(t),
        "all.compute()": model.all.compute,
    }

    def measured(metric: Metric) -> Metric:
        metric.update(t)
        return metric

    alone = Alone(refused.collective, has_parts=True)
    usual = [vars(dist.ProcessGroup)["allreduce"], Metric.sync_context]
    try:
        with alone.guards(model):
            for name, call in calls.items():
                with alone.in_step():
                    assert model.alone(t) == model.all(t)["mean"] == 1  # of the part
                    assert measured(MeanMetric(sync_on_compute=False)).compute() == 1
                    with pytest.raises(Exception, match=rf"{re.escape(name)} .*would wait"):
                        call()
                call()
            for method, name in COLLECTIVES.items():
                with (
                    alone.in_step(),
                    pytest.raises(Exception, match=f"{name} .*would wait"),
                ):
                    getattr(world, method)()
    finally:
        dist.destroy_process_group()
    assert [vars(dist.ProcessGroup)["allreduce"], Metric.sync_context] == usual


def test_each_collective_of_a_process_group_is_known() -> None:
    methods = vars(dist.ProcessGroup).items()
    waits = {name for name, method in methods if "-> c10d::Work" in str(method.__doc__)}
    assert waits - COLLECTIVES.keys() <= {"_end_coalescing"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cumsum_cuda does not have a deterministic implementation, but …", "cumsum_cuda has no"),
        (
            "Deterministic behavior was enabled …, but this operation … uses CuBLAS",
            "kernels cannot be fixed",
        ),
    ],
)
def test_what_torch_cannot_do_in_a_fixed_order_is_named(text: str, line: str) -> None:
    line = f"^--virtual_ranks: {line}"
    with pytest.raises(Exception, match=line), refused.refused_by_determinism():
        raise RuntimeError(text)


def test_what_a_continued_run_tells() -> None:
    saved = {"--virtual_ranks": "8", "the device": "a", "torch": "2.12"}
    assert list(changes(saved, saved)) == []
    assert list(changes({}, {})) == []
    line, *others = changes(saved, saved | {"torch": "2.13"})
    assert line.startswith("torch was 2.12 and is 2.13, so the numbers differ")
    assert not others
    assert next(changes({}, saved)).startswith("--virtual_ranks was not set and is 8")
    assert next(changes(saved, {})).startswith("--virtual_ranks was 8 and is not set")
