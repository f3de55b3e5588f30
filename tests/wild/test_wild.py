"""Anybody's model, data and callbacks: the same as under a plain Trainer, or refused in one line.

The runs go on in the background, on two groups of processes at a time; each test waits for its own.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.wild.cases import CASES
from tests.wild.comparing import check, check_ended
from tests.wild.processes import lanes_of
from tests.wild.recording import Result

PAIRS = [(name, layout) for name, case in CASES.items() for layout in case.layouts]
Runs = dict[tuple[str, str], "Future[list[Result]]"]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    """All runs that the selected tests ask for, as they go on."""
    items = [item for item in request.session.items if item.path == request.path]
    wanted = [item.callspec.id for item in items if isinstance(item, pytest.Function)]
    pairs = [pair for pair in PAIRS if "-".join(pair) in wanted]
    plain = dict.fromkeys((name, CASES[name].beside) for name, _ in pairs)
    lanes = lanes_of([*plain, *pairs])
    timeouts_s = {name: case.timeout_s for name, case in CASES.items()}
    folder = tmp_path_factory.mktemp("wild")
    outcomes = {pair: future for lane in lanes for pair, future in lane.outcomes.items()}
    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(lane.work, folder, timeouts_s) for lane in lanes]
        yield outcomes
        for future in outcomes.values():
            future.cancel()
    for work in working:
        work.result()


@pytest.mark.timeout(900)  # the first waits for the others' runs, too
@pytest.mark.parametrize(("name", "layout"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_users_run(name: str, layout: str, runs: Runs) -> None:
    plain = runs[name, CASES[name].beside].result()
    check_ended(plain)
    check(CASES[name], layout, runs[name, layout].result(), plain[0])
