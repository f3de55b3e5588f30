"""Runs over two hosts: the numbers of one process, and what happens when one is lost."""

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.command import ROOT
from tests.events import scalars
from tests.launched.hosts import CAN_HAVE_HOSTS, NO_HOSTS, Hosts, Started, loopback, two_hosts
from tests.launched.page import command
from tests.live_program import children_of
from tests.ranks import as_torchrun, free_port
from tests.train_to_end import train

FLAGS = (
    *("--accelerator", "cpu", "--precision", "64-true", "--log_every_n_steps", "5"),
    *("--data.length", "101", "--data.batch_size", "13", "--data.val_length", "30"),
    *("--model", "tests.launched.paced.Paced"),
)
NUM_STEPS = 8  # of an epoch
needs_hosts = pytest.mark.skipif(not CAN_HAVE_HOSTS, reason=NO_HOSTS)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    monkeypatch.setenv("STARTS", str(tmp_path / "starts.txt"))
    with two_hosts(tmp_path) as hosts:
        yield hosts


def one_process(folder: Path, max_epochs: int) -> Path:
    """The folder of a run of one process that loses nothing."""
    folder.mkdir()
    outcome = train(*FLAGS, "--max_epochs", str(max_epochs), cwd=folder)
    assert outcome.status == 0, outcome.stderr
    return folder / "lightning_logs" / "version_0"


def assert_same(run: Path, whole: Path, max_epochs: int) -> None:
    """Assert that a run has the weights of the other, has visited all, and has whole curves."""
    weights, expected = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (run, whole)
    )
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-12, atol=1e-12)
    curves, expected = scalars(run), scalars(whole)
    assert not {"coverage/missing", "coverage/repeated"} & curves.keys()  # logged if there are any
    assert len(curves["val/loss"]) == max_epochs
    for tag in ("train/loss", "train/loss_step", "val/loss"):
        assert curves[tag] == pytest.approx(expected[tag], rel=1e-6)


@needs_hosts
@pytest.mark.timeout(240)
def test_hosts_that_share_no_folder(hosts: Hosts, tmp_path: Path) -> None:
    whole = one_process(tmp_path / "whole", 2)
    folders = [tmp_path / "on_node1", tmp_path / "on_node2"]
    for folder in folders:
        folder.mkdir()

    def both(max_epochs: int) -> list[Started]:
        flags = (*FLAGS, "--max_epochs", str(max_epochs), "--ckpt_path", "continue")
        written = command("torchrun --nnodes 2 --nproc-per-node 2 ")
        both = [hosts.as_written(n, written, flags, folders[n]) for n in (0, 1)]
        assert [one.end() for one in both] == [0, 0], both[0].text + both[1].text
        return both

    texts = [one.text for one in both(1)]
    writer = next(n for n in (0, 1) if (folders[n] / "lightning_logs").exists())
    assert not (folders[1 - writer] / "lightning_logs").exists()
    assert "No checkpoint in lightning_logs yet: starting from the beginning" in texts[writer]
    line = (
        f"the folder on node{2 - writer} seems to be another: the run is kept in that of "
        f"node{writer + 1}\n"
    )
    assert line in texts[writer]
    assert "4 CPU processes, ddp, global batch 13 = 4 + 3 + 3 + 3" in texts[writer]
    assert "In Model" not in texts[1 - writer]  # told from one place
    # The first rank, which writes, may be the other host's in a later start, and another run's
    # folder have the same number there.
    (folders[writer] / "lightning_logs").rename(folders[1 - writer] / "lightning_logs")
    others = folders[writer] / "lightning_logs" / "version_0" / "events.out.tfevents.of_another"
    others.parent.mkdir(parents=True)
    others.touch()
    texts = [one.text for one in both(2)]
    assert any("From lightning_logs/version_0/checkpoints/last.ckpt" in text for text in texts)
    starts = (tmp_path / "starts.txt").read_text().splitlines()
    assert starts == [f"4 {NUM_STEPS}"] * 4
    line = "folder of that name as well: the run goes on in a new one\n"
    assert line in "".join(texts)
    assert list(others.parent.iterdir()) == [others]
    run = folders[writer] / "lightning_logs" / "version_1"
    weights, expected = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (run, whole)
    )
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-12, atol=1e-12)


@needs_hosts
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_hosts_that_share_a_folder(hosts: Hosts, tmp_path: Path) -> None:
    whole, shared = one_process(tmp_path / "whole", 2), tmp_path / "shared"
    shared.mkdir()
    flags = (*FLAGS, "--max_epochs", "2")
    both = [hosts.torchrun(n, flags, ranks=2, cwd=shared) for n in (0, 1)]
    assert [one.end() for one in both] == [0, 0], both[0].text + both[1].text
    assert [path.name for path in (shared / "lightning_logs").iterdir()] == ["version_0"]
    assert_same(shared / "lightning_logs" / "version_0", whole, 2)


@needs_hosts
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_host_that_others_do_not_reach_by_its_name_is_told(hosts: Hosts, tmp_path: Path) -> None:
    """As Debian has it: there a host's own name stands for 127.0.1.1."""
    for host in (0, 1):
        names = hosts.names(host)
        names.write_text(f"127.0.1.1 node{host + 1}\n{names.read_text()}")
    both = [hosts.as_written(host, command("--rdzv-id doctor"), [], tmp_path) for host in (0, 1)]
    for one in both:
        one.end()
    assert all("host-name-is-loopback" in one.text for one in both)
    assert all("2 hosts by torchrun; the first: reached" in one.text for one in both)
    began_s = time.monotonic()
    both = [hosts.torchrun(host, FLAGS) for host in (0, 1)]
    assert 0 not in [one.end() for one in both]
    assert time.monotonic() - began_s < 120  # far below --start_timeout_s
    lines = [line for one in both for line in one.said]
    # Where the first host ends before the other has waited long enough, torchrun ends that one.
    assert lines, both[0].text + both[1].text
    assert "127.0.1.1" in "".join(lines)  # which was tried: one of two ranks asks the other
    for line in lines:
        assert re.match(r"train\.py: error: rank [01] on node[12] \(pid \d+\) does not reach", line)
    assert not (tmp_path / "lightning_logs").exists()


@needs_hosts
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_when_workers_and_hosts_are_lost_and_join(
    hosts: Hosts, tmp_path: Path
) -> None:
    epochs = 60
    whole = one_process(tmp_path / "whole", epochs)
    shared = tmp_path / "shared"
    shared.mkdir()
    flags = [*FLAGS, "--max_epochs", str(epochs), "--save_every_s", "1", "--data.num_workers", "1"]
    written = command("--nnodes 1:2 ")
    last = shared / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"

    def start(host: int, pace_s: float = 0.15) -> Started:
        return hosts.as_written(host, f"PACE_S={pace_s} {written}", flags, shared)

    def starts() -> list[str]:
        file = tmp_path / "starts.txt"
        return file.read_text().splitlines() if file.exists() else []

    first, second = start(0), start(1)
    first.until(last.exists)
    (rank,) = children_of(second.process.pid)
    os.kill(rank, signal.SIGKILL)
    first.until(lambda: len(starts()) == 2)  # both have gone on
    time.sleep(3)
    second.kill()
    first.until(lambda: len(starts()) == 3, 240)
    time.sleep(3)
    third = start(1)
    first.until(lambda: len(starts()) == 5, 120)
    time.sleep(3)
    for one in (first, third):  # to everyone, twice
        for _ in range(2):
            for pid in (one.process.pid, *one.workers()):
                os.kill(pid, signal.SIGTERM)
    assert first.end() != 0
    assert third.end() != 0
    told = [line for one in (first, third) for line in one.said if "stopped by SIGTERM" in line]
    assert len(told) == 2, first.text + third.text  # one as the host joined
    assert all(": saved " in line for line in told)
    both = [start(0, 0.0), start(1, 0.0)]
    assert [one.end(300) for one in both] == [0, 0], both[0].text + both[1].text
    assert [line.split()[0] for line in starts()] == ["2", "2", "1", "2", "2", "2", "2"]
    assert [path.name for path in (shared / "lightning_logs").iterdir()] == ["version_0"]
    assert_same(last.parent.parent, whole, epochs)


@needs_hosts
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cut_cable_is_told_in_time(hosts: Hosts, tmp_path: Path) -> None:
    flags = (*FLAGS, "--max_epochs", "1000", "--step_timeout_s", "8")
    both = [hosts.torchrun(host, flags) for host in (0, 1)]
    both[0].until((tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt").exists)
    hosts.cable("down")
    deadline = time.monotonic() + 45
    while not all(one.said for one in both) and time.monotonic() < deadline:
        time.sleep(0.2)
    lines = [line for one in both for line in one.said]
    lost = {n: [line for line in lines if f"rank {n - 1} on node{n} (pid " in line] for n in (1, 2)}
    assert [len(found) for found in lost.values()] == [1, 1], both[0].text + both[1].text
    assert all("does not answer" in line for line in lines)
    deadline = time.monotonic() + 30
    while any(one.workers() for one in both) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [one.workers() for one in both] == [[], []]


@pytest.mark.timeout(200)
def test_a_rank_that_hangs_is_named_with_its_host_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hang").touch()
    flags = (*FLAGS, "--max_epochs", "1000", "--step_timeout_s", "4")
    monkeypatch.setenv("STARTS", str(tmp_path / "starts.txt"))
    with loopback(tmp_path) as hosts:
        env = {"HANG_FILE": str(tmp_path / "no"), "HANGS": "1", "PACE_S": "0.05"}
        both = [hosts.torchrun(host, flags, env=env) for host in (0, 1)]
        both[0].until((tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt").exists)
        (tmp_path / "no").touch()
        assert both[0].end(60) == 1
        both[1].kill()
    lines = [line for one in both for line in one.said]
    assert len(lines) == 1, lines
    assert "train.py: error: rank 1 on " in lines[0]
    assert "is alive, but the others have waited for it for 4 s" in lines[0]


@pytest.mark.timeout(200)
def test_a_first_rank_that_is_killed_is_named_in_one_line(tmp_path: Path) -> None:
    """It holds what the ranks share: nothing can be asked any more."""
    port = free_port()
    command = [sys.executable, str(ROOT / "train.py"), *FLAGS, "--max_epochs", "1000"]
    with loopback(tmp_path) as hosts:
        first, other = (hosts.start(0, command, env=as_torchrun(n, 2, port)) for n in (0, 1))
        first.until((tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt").exists)
        first.kill()
        assert other.end(60) == 1
    line = f"train.py: error: rank 0 on {socket.gethostname()} (pid {first.process.pid}) does not "
    assert other.text.startswith(line)
    assert other.text.count("\n") == 1
