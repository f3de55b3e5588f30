"""Each case was seen to fail: with the mechanism broken that it guards, it does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wild.case import RANKS
from tests.wild.cases import CASES
from tests.wild.comparing import check
from tests.wild.mechanisms import MECHANISMS
from tests.wild.processes import Group

PATIENCE = 3  # a run that is slow has not failed
TRIPLES = [
    (mechanism, name, layout)
    for mechanism, broken in MECHANISMS.items()
    for layout, names in broken.cases.items()
    for name in names
]


@pytest.fixture(scope="module")
def healthy() -> Iterator[Group]:
    """Runs what others are compared with."""
    group = Group(1)
    yield group
    group.end()


@pytest.fixture(scope="module")
def groups() -> Iterator[dict[tuple[str, int], Group]]:
    """Processes for each mechanism: what it has spoilt is no other's."""
    kept: dict[tuple[str, int], Group] = {}
    yield kept
    for group in kept.values():
        group.end()


def test_each_case_guards_a_mechanism() -> None:
    assert {name for _, name, _ in TRIPLES} == set(CASES)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("mechanism", "name", "layout"), TRIPLES, ids=map("-".join, TRIPLES))
def test_fails_without_it(
    mechanism: str,
    name: str,
    layout: str,
    healthy: Group,
    groups: dict[tuple[str, int], Group],
    tmp_path: Path,
) -> None:
    case, key = CASES[name], (mechanism, RANKS[layout])
    if key not in groups:
        while groups:
            groups.popitem()[1].end()
        groups[key] = Group(RANKS[layout])
    limit_s = PATIENCE * case.timeout_s
    plain = healthy.run(name, case.beside, tmp_path / "plain", limit_s)

    def run_and_check() -> None:
        results = groups[key].run(name, layout, tmp_path / "run", limit_s, mechanism)
        check(case, layout, results, plain[0])

    with pytest.raises(AssertionError) as failed:  # `Hung` is one
        run_and_check()
    print(failed.value)  # for whoever doubts that it failed for this reason
