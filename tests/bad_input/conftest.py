"""What the tests of bad input share: one process that forks for all of them."""

from collections.abc import Iterator

import pytest

from tests.train_to_end import Forks


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()
