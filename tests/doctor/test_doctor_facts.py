"""Facts go to JSON and back, and a wrong file is named where it is wrong."""

from __future__ import annotations

import json

import pytest

from lightning_app.doctor.facts import Facts

from .recorded import NAMES, machine


@pytest.mark.parametrize("name", NAMES)
def test_json_and_back(name: str) -> None:
    facts = machine(name)
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    assert facts.source


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "facts: expected an object, got []"),
        ({"colour": 1}, "facts: no field 'colour'"),
        ({"system": 7}, "facts.system: expected str, got 7"),
        ({"num_cpus": True}, "facts.num_cpus: expected int, got True"),
        ({"adapters": {}}, "facts.adapters: expected a list, got {}"),
        ({"adapters": [{"revision": "ff"}]}, "facts.adapters[0].revision: expected int, got 'ff'"),
        ({"nvml": {"gpus": [{}, 3]}}, "facts.nvml.gpus[1]: expected an object, got 3"),
        ({"environment": ["A"]}, "facts.environment: expected an object, got ['A']"),
        ({"environment": {"A": 1}}, "facts.environment.A: expected str, got 1"),
        ({"unknown": None}, "facts.unknown: expected a list, got None"),
    ],
)
def test_wrong_values_are_named(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no field") as error:
        Facts.from_json(value)
    assert str(error.value) == message


def test_absent_fields_are_unknown() -> None:
    assert Facts.from_json({}) == Facts()
    assert Facts().adapters is None
