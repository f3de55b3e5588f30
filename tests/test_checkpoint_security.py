"""Checkpoints are input from strangers: none runs code, unless the user says so."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

from lightning_app.checkpoint import input as checkpoint_input
from lightning_app.cli import main
from lightning_app.strategies import SingleDeviceStrategy
from tests.in_process import InProcess
from tests.payload import poison

pytestmark = pytest.mark.filterwarnings("default")  # Lightning uses what is deprecated
LAST = "lightning_logs/version_0/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real one, of the default model."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py", "--max_epochs", "1", "--accelerator", "cpu"])
        main()
    return folder / LAST


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capsys)


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL that it is served at."""
    folder = tmp_path_factory.mktemp("web")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            """Tests print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _local(path: Path) -> str:
    return str(path)


def _file_url(path: Path) -> str:
    return f"file://{path}"


def _memory_url(path: Path) -> str:
    fsspec.filesystem("memory").pipe(f"/{path.name}", path.read_bytes())
    return f"memory://{path.name}"


OTHERS = ("bf16-true", "bf16-mixed", "16-true")  # than are looked at in every run


@pytest.mark.parametrize(
    "precision",
    ["32-true", "64-true", *(pytest.param(p, marks=pytest.mark.slow) for p in OTHERS)],
)
@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_no_payload_runs(
    subcommand: str, precision: str, run: InProcess, checkpoint: Path, web: tuple[Path, str]
) -> None:
    mark = run.folder / "has run"
    evil = poison(checkpoint, run.folder / "evil.ckpt", mark)
    old = poison(checkpoint, run.folder / "old.ckpt", mark, old_format=True)
    poison(checkpoint, web[0] / "evil.ckpt", mark)
    flags = (subcommand, "--precision", precision, "--ckpt_path")
    for source in (_local, _file_url, _memory_url):
        for path in (evil, old):
            run.refused("can run code when they are loaded", *flags, source(path))
        weights = (subcommand, "--precision", precision, "--weights_from")
        run.refused("can run code when they are loaded", *weights, source(evil))
    run.refused("download it", *flags, f"{web[1]}/evil.ckpt")
    run.refused("download it", *flags, f"{web[1]}/evil.ckpt", "--weights_only", "false")
    assert not mark.exists()


def test_the_users_own_word_is_needed_and_enough(run: InProcess, checkpoint: Path) -> None:
    mark = run.folder / "has run"
    evil = poison(checkpoint, run.folder / "evil.ckpt", mark)
    for words in ((), ("--weights_only", "true"), ("--weights_only", "null")):
        run.refused("add --weights_only false", "--ckpt_path", str(evil), *words)
    assert not mark.exists()
    assert "of another model" in run("--ckpt_path", str(evil), "--weights_only", "false").stderr
    assert mark.exists()  # so it would have run


def test_what_torch_is_told_by_the_environment_is_not_the_users_word(
    run: InProcess, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = run.folder / "has run"
    evil = poison(checkpoint, run.folder / "evil.ckpt", mark)
    run.refused("add --weights_only false", "--ckpt_path", str(evil))
    assert not mark.exists()


def test_a_strategy_that_loads_after_its_setup_does_it_safely(
    run: InProcess, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = run.folder / "has run"
    evil = poison(checkpoint, run.folder / "evil.ckpt", mark)
    # As if the look at it before the start had missed it.
    monkeypatch.setattr(checkpoint_input, "read", lambda *_: torch.load(checkpoint))
    monkeypatch.setattr(SingleDeviceStrategy, "restore_checkpoint_after_setup", True)
    run.refused("it holds os.makedirs, and such", "--ckpt_path", str(evil))
    assert not mark.exists()
    run("--ckpt_path", str(evil), "--weights_only", "false")
    assert mark.exists()


@pytest.mark.parametrize("name", ["os.abort", "os.getcwd", "lightning.pytorch.LightningModule"])
def test_a_strategy_is_a_class_of_one_before_it_is_called(name: str, run: InProcess) -> None:
    (run.folder / "a.yaml").write_text(f"trainer: {{strategy: {name}}}")
    (run.folder / "b.yaml").write_text(f"trainer: {{strategy: {{class_path: {name}}}}}")
    run.refused("is not a class of a strategy", "--strategy", name)
    run.refused("is not a class of a strategy", "--config", "a.yaml")
    run.refused("not correspond to a subclass of Strategy", "--config", "b.yaml")
    for flag in ("--callbacks", "--logger", "--plugins", "--model", "--data", "--optimizer"):
        run.refused("not correspond to a subclass of", flag, name if name[0] == "o" else "os.abort")


def test_urls_give_what_is_there(run: InProcess, checkpoint: Path) -> None:
    for number, source in enumerate((_local, _file_url, _memory_url)):
        flags = ("--max_epochs", "2", "--ckpt_path", source(checkpoint))
        outcome = run(*flags, "--default_root_dir", str(number))
        assert outcome.status == 0, outcome.stderr
    states = [torch.load(f"{number}/{LAST}")["state_dict"] for number in range(3)]
    for name, weight in states[0].items():
        assert all(torch.equal(weight, state[name]) for state in states)
