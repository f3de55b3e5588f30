"""Ranks that do not find each other say so, and end."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_app.cli.refusals import is_of_another
from lightning_app.errors import RunError, UsageError
from lightning_app.processes import rendezvous
from tests.ranks import free_port


def alone() -> LightningEnvironment:
    """The first of two ranks; the other never comes."""
    environment = LightningEnvironment()
    environment.set_global_rank(0)
    environment.set_world_size(2)
    environment._main_port = free_port()
    return environment


@pytest.mark.timeout(30)
def test_ranks_that_do_not_find_each_other_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "SAYS_SO_S", 0.2)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    environment = alone()
    port = environment.main_port
    with pytest.raises(UsageError, match=rf"^rank 0 of 2 at MASTER_ADDR=127.0.0.1, .*={port}: "):
        rendezvous.meet(environment, limit_s=2.0)
    told = f"train.py: rank 0 waits for all 2 processes at 127.0.0.1:{port}, for at most 2 s\n"
    assert told in capfd.readouterr().err


@pytest.mark.timeout(30)
def test_an_unknown_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "ADDRESS_S", 0.1)
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UsageError, match=r"^MASTER_ADDR=no-such-host\.invalid: "):
        rendezvous.meet(alone())


def test_a_rank_out_of_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # put back: the environment sets it as well
    environment = alone()
    environment.set_global_rank(2)
    with pytest.raises(UsageError, match=r"^this process is rank 2 .* for 2 ranks, 0 to 1: make"):
        rendezvous.meet(environment)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.timeout(30)
def test_an_address_that_nothing_answers_at_is_told_in_one_line(
    rank: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    address = "127.0.0.1" if rank else "192.0.2.1"  # which is for documents: it is nowhere
    monkeypatch.setattr(rank_zero_only, "rank", rank)  # put back: the environment sets it as well
    environment = alone()
    environment.set_global_rank(rank)
    port = environment.main_port
    monkeypatch.setenv("MASTER_ADDR", address)
    monkeypatch.setenv("MASTER_PORT", str(port))
    place = f"rank {rank} of 2 at MASTER_ADDR={address}, MASTER_PORT={port}"
    began_s = time.monotonic()
    with pytest.raises(UsageError, match=f"^{place}: nothing answers there: "):
        rendezvous.meet(environment, limit_s=1.0)
    assert time.monotonic() - began_s < 10  # torch waits for each of its own tries
    assert capfd.readouterr() == ("", "")


@pytest.mark.timeout(30)
def test_a_rank_that_is_late_after_the_meeting_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "SAYS_SO_S", 0.2)
    timeout = timedelta(seconds=5)
    store = dist.TCPStore("127.0.0.1", 0, None, True, timeout, wait_for_workers=False)  # type: ignore[attr-defined]
    of_ranks = [{"host": f"node{number}", "pid": 100 + number} for number in range(3)]
    met = rendezvous.Meeting(store, of_ranks, None)
    with ThreadPoolExecutor() as others:
        came = others.submit(met.wait_for_all, 1, 20.0)
        with pytest.raises(UsageError) as caught:
            met.wait_for_all(0, 1.0)
        missing = "rank 2 on node2 (pid 102)"
        assert str(caught.value) == f"{missing} did not come within 1 s"
        assert capfd.readouterr().err == f"train.py: waiting for {missing}, for at most 1 s\n"
        met.wait_for_all(2, 1.0)
        came.result()


@pytest.mark.timeout(30)
def test_a_first_rank_that_is_gone_with_the_store_is_named() -> None:
    timeout = timedelta(seconds=5)
    first = dist.TCPStore("127.0.0.1", 0, None, True, timeout, wait_for_workers=False)  # type: ignore[attr-defined]
    store = dist.TCPStore("127.0.0.1", first.port, None, False, timeout)  # type: ignore[attr-defined]
    met = rendezvous.Meeting(store, [{"host": "node1", "pid": 100}, {"host": "b", "pid": 7}], None)
    del first
    with pytest.raises(RunError) as caught, rendezvous.names_first_rank(met.of_ranks):
        met.wait_for_all(1, 5.0)
    assert str(caught.value).startswith("rank 0 on node1 (pid 100) does not answer: its process, ")
    lost: Any = caught.value.__context__
    assert is_of_another(lost)

    what_came_of_it = TypeError("a library's, around that")
    assert not is_of_another(what_came_of_it)
    what_came_of_it.__context__ = lost
    assert is_of_another(what_came_of_it)
    what_came_of_it.__cause__ = what_came_of_it  # `raise error from error`
    assert not is_of_another(what_came_of_it)
