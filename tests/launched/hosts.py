"""Two hosts on one machine: network namespaces joined by a cable, or, without root, loopback."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.command import ROOT, without_waits
from tests.ranks import free_port

CAN_HAVE_HOSTS = (
    bool(sys.platform == "linux" and os.geteuid() == 0 and shutil.which("ip"))
    and subprocess.run(["ip", "netns", "list"], capture_output=True).returncode == 0
)
NO_HOSTS = "network namespaces need root on Linux, and the command `ip`"
SEPARATE_STORES = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # or no host can join
KEPT_OUT = ("SLURM", "TORCHELASTIC", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_")


def environment() -> dict[str, str]:
    """This process's, without what a launcher may have set."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(KEPT_OUT)}
    own = f"{Path(sys.executable).parent}:{env['PATH']}"  # with the `torchrun` of this Python
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return env | settings | {"PATH": own}


@dataclass
class Started:
    """A launcher that runs, with all that it has started."""

    process: subprocess.Popen[bytes]
    output: Path
    name: str  # in the environment of all that it has started

    @property
    def text(self) -> str:
        """What it has written, to stdout and stderr."""
        return self.output.read_text(errors="replace")

    @property
    def said(self) -> list[str]:
        """Its lines that are `train.py`'s own, but for those of ranks that wait."""
        lines = without_waits(self.text).splitlines()
        return [line for line in lines if line.startswith("train.py: ")]

    def workers(self) -> list[int]:
        """Processes of `train.py`, its loaders' workers included."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environ = (path / "environ").read_bytes()
                command = (path / "cmdline").read_bytes()
            except OSError:
                continue
            is_own = f"LAUNCH={self.name}\0".encode() in environ
            if is_own and b"TORCHELASTIC_RUN_ID" in environ and b"train.py" in command:
                found.append(int(path.name))
        return sorted(found)

    def until(self, happened: Callable[[], Any], seconds: float = 90) -> Any:
        """Wait for something, and give what it is."""
        deadline = time.monotonic() + seconds
        while not (result := happened()):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)
        return result

    def end(self, seconds: float = 120) -> int:
        """Wait for its end; give the status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end: {self.text}") from None

    def kill(self) -> None:
        """End it and its workers at once, as when the host goes down."""
        for pid in (self.process.pid, *self.workers()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Hosts:
    """Two of them.

    Attributes:
        address: Of the first one, for the launcher.
        prefixes: What comes before a command to have it run on each.
    """

    address: str
    prefixes: list[list[str]]
    folder: Path
    port: int = field(default_factory=free_port)
    started: list[Started] = field(default_factory=list)
    cable: Callable[[str], Any] = print

    def names(self, host: int) -> Path:
        """The file of the names that a host knows, where it has a network of its own."""
        return Path("/etc/netns") / self.prefixes[host][3] / "hosts"

    def start(
        self,
        host: int,
        command: Sequence[str],
        cwd: Path | None = None,
        env: Mapping[str, str] = {},
    ) -> Started:
        """Start a command on a host."""
        name = uuid.uuid4().hex
        output = self.folder / f"output_{len(self.started)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*self.prefixes[host], *command],
                cwd=cwd or self.folder,
                env=environment() | dict(env) | {"LAUNCH": name},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(Started(process, output, name))
        return self.started[-1]

    def as_written(self, host: int, command: str, flags: Sequence[str], cwd: Path) -> Started:
        """Start a command of the page on a host, with flags added, in a folder with `train.py`."""
        script = cwd / "train.py"
        if not script.exists():
            script.symlink_to(ROOT / "train.py")
        return self.start(host, ["env", *shlex.split(command), *flags], cwd)

    def torchrun(
        self,
        host: int,
        flags: Sequence[str],
        *,
        nnodes: str = "2",
        ranks: int = 1,
        restarts: int = 0,
        cwd: Path | None = None,
        env: Mapping[str, str] = {},
    ) -> Started:
        """Start one like those of the page on a host."""
        command = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", nnodes, "--nproc-per-node", str(ranks)),
            *("--max-restarts", str(restarts), "--rdzv-id", "run", "--rdzv-backend", "c10d"),
            *("--rdzv-endpoint", f"{self.address}:{self.port}"),
            *("--rdzv-conf", "last_call_timeout=5,read_timeout=20"),
            *(str(ROOT / "train.py"), *flags),
        ]
        return self.start(host, command, cwd, {SEPARATE_STORES: "1", **env})


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True)


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Hosts `node1` and `node2`, each a network of its own, that end with all they run."""
    names = [f"f{os.getpid()}n{number}" for number in (1, 2)]
    net = f"10.{os.getpid() % 200 + 20}.7"
    ends = [f"v{os.getpid() % 100000}n{number}" for number in (1, 2)]
    started: list[Started] = []
    _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    try:
        for number, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            _ip("netns", "add", name)
            _ip("link", "set", end, "netns", name)
            _ip("-n", name, "addr", "add", f"{net}.{number}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        prefixes = [
            [
                *("ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c"),
                f'hostname node{number}; exec "$@"',
                "sh",
            ]
            for number, name in enumerate(names, 1)
        ]
        hosts = Hosts(f"{net}.1", prefixes, folder, started=started)
        # Names that each host knows: torchrun asks for its own.
        for number in (0, 1):
            known = hosts.names(number)
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(f"127.0.0.1 localhost\n{net}.1 node1\n{net}.2 node2\n")
        hosts.cable = lambda state: _ip("-n", names[1], "link", "set", ends[1], state)
        yield hosts
    finally:
        for name in names:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for pid in pids.stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        subprocess.run(["ip", "link", "del", ends[0]], capture_output=True)
        for one in started:
            one.process.wait(10)


@contextmanager
def loopback(folder: Path) -> Iterator[Hosts]:
    """Two launchers on one host, for what needs no network of its own."""
    hosts = Hosts("127.0.0.1", [[], []], folder)
    try:
        yield hosts
    finally:
        for one in hosts.started:
            if one.process.poll() is None:
                one.kill()
