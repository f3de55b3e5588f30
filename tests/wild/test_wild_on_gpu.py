"""The cases of `test_wild` with their models on a GPU: beside a plain Trainer on it.

One GPU is enough: two replicas share it, and so do two ranks, which meet over gloo.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wild.case import PLAIN_ON_GPU, RANKS
from tests.wild.cases import CASES
from tests.wild.comparing import check, check_ended
from tests.wild.processes import Group
from tests.wild.recording import Result

pytestmark = pytest.mark.gpu
# A lone buffer is not copied to where it is: both replicas count in one.
OF_TWO_GPUS = {("forward counts its calls", "gpu dp2")}
ALL = {(name, layout): None for name, case in CASES.items() for layout in case.gpu_layouts}
PAIRS = [pair for pair in ALL if pair not in OF_TWO_GPUS]
PATIENCE = 2  # each process starts CUDA first


class Runs:
    """Runs cases, each kind of layout in processes of its own, which are kept."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, bool], Group] = {}
        self._beside: dict[tuple[str, str], list[Result]] = {}

    def beside(self, name: str, layout: str, folder: Path) -> list[Result]:
        """What a case is compared with, which is run once."""
        if (name, layout) not in self._beside:
            self._beside[name, layout] = self.run(name, layout, folder)
        return self._beside[name, layout]

    def run(self, name: str, layout: str, folder: Path) -> list[Result]:
        """What a case's ranks end with."""
        kind = RANKS[layout], layout == PLAIN_ON_GPU
        group = self._groups.setdefault(kind, Group(kind[0]))
        return group.run(name, layout, folder, PATIENCE * CASES[name].timeout_s)

    def end(self) -> None:
        """End the processes."""
        for group in self._groups.values():
            group.end()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """The processes."""
    runs = Runs()
    yield runs
    runs.end()


@pytest.mark.parametrize(("name", "layout"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_users_run_on_a_gpu(name: str, layout: str, runs: Runs, tmp_path: Path) -> None:
    case = CASES[name]
    beside = "gpu" if case.beside == "one" else PLAIN_ON_GPU
    other = runs.beside(name, beside, tmp_path / "beside")
    if other[0].error:
        pytest.skip(f"it does not run on a GPU: {other[0].error.splitlines()[-1]}")
    check_ended(other)
    check(case, layout, runs.run(name, layout, tmp_path / "run"), other[0])
