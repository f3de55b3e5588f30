"""After any fault, on any layout: the exit code, no process left, and a whole continuation."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.documented import exit_code
from tests.forked import Program

LAYOUTS = {
    "one": ("--devices", "1"),
    "dp2": ("--devices", "2", "--strategy", "dp"),
    "ddp2": ("--devices", "2", "--strategy", "ddp"),
}
FLAGS: tuple[str, ...] = (
    "--model",
    "tests.faulty.Disturbed",
    "--accelerator",
    "cpu",
    "--precision",
    "64-true",
)
FLAGS += ("--max_epochs", "2", "--log_every_n_steps", "5")
LAST = Path("lightning_logs", "version_0", "checkpoints", "last.ckpt")
FAULTS = {
    "error": "an error in the user's code, on any rank",
    "misconfiguration": "a `MisconfigurationException` of the user's own in a step",
    "nan": "a loss that is NaN or infinite",
    "no room": "no room for a checkpoint",
    "SIGKILL": "a rank is killed",
    "SIGHUP": "a signal in training",
    "SIGINT": "a signal in training",
    "SIGTERM": "a signal in training",
    "SIGTERM SIGTERM": "a second signal, a second or more later",
}
IN_EVERY_RUN = {("nan", "one"), ("error", "dp2"), ("SIGTERM", "dp2"), ("SIGKILL", "ddp2")}
PAIRS = [
    pytest.param(f, la, marks=() if (f, la) in IN_EVERY_RUN else pytest.mark.slow, id=f"{f}-{la}")
    for f in FAULTS
    for la in LAYOUTS
]


def weights(folder: Path) -> dict[str, Tensor]:
    checkpoint = torch.load(folder / LAST, weights_only=True)
    assert checkpoint["global_step"] == 68
    state: dict[str, Tensor] = checkpoint["state_dict"]
    return state


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run in which nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert Program(*FLAGS, *LAYOUTS["one"], cwd=folder).end() == 0
    return weights(folder)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("fault", "layout"), PAIRS)
def test_a_disturbed_run_is_continued_to_the_same_weights(
    fault: str, layout: str, undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    flags = (*FLAGS, "--model.fault", fault, *LAYOUTS[layout])
    signum = signal.Signals[fault.split()[0]] if fault.startswith("SIG") else 0
    is_killed = signum == signal.SIGKILL and layout != "ddp2"  # as a whole
    code = -signum if is_killed else exit_code(FAULTS[fault], signum)
    program = Program(*flags, cwd=tmp_path)
    assert program.end(90) == code, program.stderr
    assert (tmp_path / "disturbed").exists()
    program = Program(*flags, "--ckpt_path", "last", cwd=tmp_path)
    assert program.end(90) == 0, program.stderr
    for name, weight in weights(tmp_path).items():
        torch.testing.assert_close(weight, undisturbed[name], rtol=1e-12, atol=1e-12)
