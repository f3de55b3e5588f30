"""What ranks tell of each other when a collective has failed."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app.processes import liveness
from lightning_app.processes.liveness import Liveness, write_error_file
from tests.ranks import run_ranks
from tests.runs import fit

OF_RANKS = [{"host": f"node{rank // 2 + 1}", "pid": 100 + rank} for rank in range(4)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(liveness, "BEAT_S", 0.05)
    monkeypatch.setattr(liveness, "HEARSAY_S", 0.2)
    timeout = timedelta(seconds=5)
    return dist.TCPStore("127.0.0.1", 0, None, True, timeout, wait_for_workers=False)  # type: ignore[attr-defined]


@pytest.fixture
def ranks(store: Any) -> Iterator[list[Liveness]]:
    ranks = [Liveness(store, rank, OF_RANKS) for rank in range(4)]
    for one in ranks:
        one.step, one.limit_s = 7, 40.0
    yield ranks
    for one in ranks:
        one.end()


def told(
    ranks: list[Liveness], left: tuple[int, ...], is_timeout: bool, *saving: int
) -> dict[int, str]:
    """What the ranks that are left say, by their numbers; one of each host does."""
    for rank in () if saving else left:
        ranks[rank].tell_own("")  # all give up at about the same time
    places = {rank: "save_checkpoint" if rank in saving else "" for rank in left}
    with ThreadPoolExecutor() as pool:
        asked = {r: pool.submit(ranks[r].why, is_timeout, place) for r, place in places.items()}
    lines = {rank: line.result() for rank, line in asked.items()}
    return {rank: line for rank, line in lines.items() if line}


def test_a_rank_that_is_stuck_is_told_from_one_that_is_gone(ranks: list[Liveness]) -> None:
    ranks[2].end()  # its thread with it
    lines = told(ranks, (0, 1, 3), is_timeout=True)
    assert lines.keys() == {0, 3}  # the first that is left of each host
    assert lines[0].startswith("rank 2 on node2 (pid 102) does not answer: its process, its host")


def test_a_rank_that_is_stuck_is_told(ranks: list[Liveness]) -> None:
    lines = told(ranks, (0, 1, 2), is_timeout=True)
    assert lines.keys() == {0, 2}
    assert lines[0].startswith(
        "rank 3 on node2 (pid 103) is alive, but the others have waited for it for 40 s: it is at "
        "step 7, since "
    )


def test_a_connection_that_ends_is_told_at_once(ranks: list[Liveness]) -> None:
    lines = told(ranks, (1, 2, 3), is_timeout=False)
    assert lines.keys() == {1, 2}
    assert lines[1].startswith("rank 0 on node1 (pid 100) has ended, or cannot be reached, at step")


def test_the_cause_is_told_by_the_others(ranks: list[Liveness]) -> None:
    ranks[1].tell_own("ValueError: sample 17 has no label")
    lines = told(ranks, (0, 2), is_timeout=False)
    assert lines.keys() == {0, 2}
    expected = "rank 1 on node1 (pid 101) ended at step 7: ValueError: sample 17 has no label"
    assert set(lines.values()) == {expected}


def test_nobody_is_missing_where_all_have_given_up(ranks: list[Liveness]) -> None:
    assert told(ranks, (0, 1, 2, 3), is_timeout=True) == {}


def test_who_waits_where_the_others_do_not_come_is_told(ranks: list[Liveness]) -> None:
    line = "rank 2 on node2 (pid 102) waited in save_checkpoint: every process has to call that"
    lines = told(ranks, (0, 2, 3), True, 2)
    assert lines.keys() == {0, 2}  # of each host one
    assert all(text.endswith(f"; {line}") for text in lines.values())
    assert told(ranks, (0, 1, 2, 3), True, 2) == {0: line, 2: line}


def test_who_waits_there_is_told_also_by_one_whose_connection_another_has_closed(
    ranks: list[Liveness],
) -> None:
    line = "rank 2 on node2 (pid 102) waited in save_checkpoint: every process has to call that"
    assert told(ranks, (0, 1, 2, 3), False, 2) == {0: line, 2: line}


def test_a_rank_that_is_lost_while_others_save_is_no_fault_of_theirs(
    ranks: list[Liveness],
) -> None:
    lines = told(ranks, (0, 2, 3), False, 2)
    assert all("save_checkpoint" not in line for line in lines.values())
    assert lines[0].startswith("rank 1 on node1 (pid 101) has ended, or cannot be reached")


def test_nothing_is_known_where_all_wait_in_the_same(ranks: list[Liveness]) -> None:
    assert told(ranks, (0, 1, 2, 3), True, 0, 1, 2, 3) == {}


def test_an_error_is_left_where_torchrun_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "error.json"
    write_error_file("not asked for")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    monkeypatch.setenv("RANK", "3")
    write_error_file("ValueError: sample 17", "Traceback …")
    write_error_file("a consequence")
    message = json.loads(path.read_text())["message"]
    assert message["message"].endswith(", rank 3: ValueError: sample 17")
    assert message["extraInfo"]["py_callstack"] == "Traceback …"


def num_telling(most: int = 1) -> int:
    """How many threads tell that this rank is alive, once there are at most so many."""
    deadline = time.monotonic() + 5
    while True:
        found = [thread.name for thread in threading.enumerate()].count("liveness")
        if found <= most or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


class Heard(Callback):
    """Notes how many threads tell that this rank is alive, as a run starts and within one."""

    def __init__(self) -> None:
        self.telling: list[int] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.telling.append(num_telling())
        if len(self.telling) == 1:
            fit("ddp", 2, callbacks=[self], max_steps=1)
            self.telling.append(num_telling())


def train_thrice() -> list[int]:
    """One run, with another in it, and a third."""
    heard = Heard()
    for _ in range(2):
        fit("ddp", 2, callbacks=[heard], max_steps=1)
        heard.telling.append(num_telling(0))
    return heard.telling


def test_each_run_of_a_process_tells_the_others_once() -> None:
    assert run_ranks(train_thrice, 2) == [[1, 1, 1, 0, 1, 0]] * 2
