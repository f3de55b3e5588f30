"""What the parts of a step write: buffers, tensors in plain attributes, other attributes."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_app.strategies.checks.first_steps import NUM_STEPS
from lightning_app.strategies.checks.kept import MOST_VALUES
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.virtual.attributes import Attributes
from lightning_app.strategies.virtual.buffers import Buffers


def test_buffers_begin_alike_and_the_first_ranks_are_kept() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    buffers, mean = Buffers(model, TellOnce()), model[0].running_mean
    buffers.begin("training_step")
    model(torch.randn(4, 2))
    first = buffers.result()
    assert {name for name, *_ in first} >= {("0", "running_mean"), ("1", "num_batches_tracked")}
    kept = model[0].running_mean.clone()
    buffers.put_back()
    assert model[0].running_mean.eq(0).all()
    model[0].running_mean = torch.ones(2)  # another tensor, by the second part
    buffers.end_with(first)
    assert model[0].running_mean is mean
    assert torch.equal(mean, kept)
    assert model[1].num_batches_tracked == 1
    new = buffers.at(("0", "running_mean"), torch.Size([3]), torch.float64)
    assert model[0].running_mean is new
    assert new.shape == (3,)


def test_plain_tensors_that_parts_change_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = LightningModule()
    model.total, model.never = torch.zeros(2), torch.ones(1).expand(3)  # which cannot be written
    model.table = nn.Parameter(torch.zeros(2), requires_grad=False)
    model.generator = torch.Generator()
    buffers, attributes = Buffers(model, TellOnce()), Attributes(model, TellOnce())
    for step in range(20):
        buffers.begin("training_step")
        attributes.begin()
        results = []
        for part in (1, 2):
            if part == 2:
                buffers.put_back()
            model.total += part
            model.table.data = model.table + part
            torch.rand(1, generator=model.generator if step == 2 else None)
            attributes.part_ended()
            buffers.part_ended()
            results.append(buffers.result())
        buffers.end_with(results[0])
        attributes.end()
        assert model.total.tolist() == model.table.tolist() == [step + 1] * 2
        told = capsys.readouterr().err
        assert ("LightningModule: steps change table, total in place" in told) == (step == 0)
        assert ("LightningModule: steps draw from generator, and" in told) == (step == 2)
    assert buffers.moved == {("", "total"), ("", "table")}


def test_plain_tensors_of_inference_mode_and_of_other_shapes() -> None:
    model: Any = LightningModule()
    model.total = torch.zeros(2)
    model.data = torch.zeros(MOST_VALUES + 1)
    buffers = Buffers(model, TellOnce())
    buffers.begin("training_step")
    model.total.resize_(3).fill_(1)
    buffers.part_ended()
    result = buffers.result()
    buffers.put_back()
    assert model.total.tolist() == [0, 0]
    buffers.end_with(result)
    assert model.total.tolist() == [1, 1, 1]
    assert ("", "data") not in buffers._kept
    with torch.inference_mode():  # as Lightning validates
        model.total = torch.zeros(3)
        buffers.begin("validation_step")
        model.total += 1
        buffers.part_ended()
        buffers.put_back()
    assert model.total.tolist() == [0, 0, 0]
    model.register_buffer("seen", model.total)
    buffers.begin("training_step")
    buffers.put_back()
    assert buffers.result() == []


def test_attributes_that_parts_set(capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = LightningModule()
    model.body = nn.Linear(1, 1)
    model.count = 5
    model.kept = {"sizes": []}
    attributes = Attributes(model, TellOnce())

    def step(sizes: list[int]) -> None:
        attributes.begin()
        for size in sizes:
            model.count += 1
            vars(model.body)["last"] = float(size)
            model.kept["sizes"].append(size)
            attributes.part_ended()
        attributes.end()

    step([4, 4])
    assert (model.count, model.body.last) == (6, 4.0)
    assert capsys.readouterr().err == ""
    step([4, 3])
    assert (model.count, model.body.last) == (7, 4.0)
    assert list(attributes.grown) == ["kept"]
    assert "LightningModule: steps set body.last, each virtual rank" in capsys.readouterr().err
    for _ in range(20):
        step([4, 3])
    assert model.count == 27


def test_what_the_last_step_that_is_looked_at_sets_is_kept() -> None:
    model: Any = LightningModule()
    attributes = Attributes(model, TellOnce())
    for number in range(1, NUM_STEPS + 1):
        attributes.begin()
        for part in range(2):
            if number == NUM_STEPS:
                model.late = part
            attributes.part_ended()
        attributes.end()
    assert model.late == 0
