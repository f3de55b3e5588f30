"""Each case was seen to fail: with the mechanism broken that it guards, it does."""

from collections.abc import Iterator
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from tests.wild.case import RANKS
from tests.wild.cases import CASES
from tests.wild.comparing import check
from tests.wild.mechanisms import MECHANISMS
from tests.wild.processes import Group

PATIENCE = 3  # a run that is slow has not failed
PAIRS = [(kind, name) for kind, one in MECHANISMS.items() for name in one.cases.split("; ")]


@pytest.fixture(scope="module")
def healthy() -> Iterator[Group]:
    """Runs what others are compared with."""
    group = Group(1)
    yield group
    group.end()


@pytest.fixture(scope="module")
def groups() -> Iterator[dict[str, Group]]:
    """Processes for each mechanism: what it has spoilt is no other's."""
    kept: dict[str, Group] = {}
    yield kept
    for group in kept.values():
        group.end()


def test_each_case_guards_a_mechanism() -> None:
    assert {name for _, name in PAIRS} == set(CASES)


@pytest.mark.parametrize("kind", MECHANISMS)
def test_can_be_put_in_its_place(kind: str) -> None:
    """Another's signature would have every case fail, for a reason that proves nothing."""
    mechanism = MECHANISMS[kind]
    original, instead = resolve_name(f"lightning_app.{mechanism.target}"), mechanism.instead
    if callable(original) and Parameter.VAR_POSITIONAL not in _parameters(instead).values():
        assert _parameters(instead) == _parameters(original)


def _parameters(function: Any) -> dict[str, Any]:
    return {name: parameter.kind for name, parameter in signature(function).parameters.items()}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "name"), PAIRS, ids=map("-".join, PAIRS))
def test_fails_without_it(
    kind: str,
    name: str,
    healthy: Group,
    groups: dict[str, Group],
    tmp_path: Path,
) -> None:
    case, layout = CASES[name], MECHANISMS[kind].layout
    if kind not in groups:
        while groups:
            groups.popitem()[1].end()
        groups[kind] = Group(RANKS[layout])
    limit_s = PATIENCE * case.timeout_s
    plain = healthy.run(name, case.beside, tmp_path / "plain", limit_s)

    def run_and_check() -> None:
        results = groups[kind].run(name, layout, tmp_path / "run", limit_s, kind)
        check(case, layout, results, plain[0])

    with pytest.raises(AssertionError) as failed:  # `Hung` is one
        run_and_check()
    print(failed.value)  # for whoever doubts that it failed for this reason
