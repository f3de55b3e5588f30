"""The commands of the README, run as a user runs them."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

from lightning_app.cli.command_line import DEFAULT_MAX_EPOCHS
from lightning_app.data import RandomDataset
from tests.command import ROOT, Outcome, start, transcript
from tests.events import scalars
from tests.train_to_end import train

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
BORING = "lightning.pytorch.demos.boring_classes"


@pytest.fixture(scope="module")
def ddp_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("ddp")
    outcome = train("--devices", "2", "--strategy", "ddp", "--accelerator", "cpu", cwd=folder)
    assert outcome.status == 0, outcome.stderr
    return outcome.stdout, folder / "lightning_logs" / "version_0"


def test_run_tells_its_layout_and_splits(ddp_run: tuple[str, Path]) -> None:
    stdout, _ = ddp_run
    assert stdout.splitlines()[0] == "2 CPU processes, ddp, global batch 30 = 15 + 15"
    lines = transcript(stdout)
    assert len(lines) == 6  # a split of 30 and one of the last 10, each seen for the first time
    assert lines[3].startswith(
        "\tIn Model: input size torch.Size([5, 5]) output size torch.Size([5, 2])"
    )
    assert lines[3].endswith("(rank 0, cpu)")
    assert "epoch 10/10" in stdout
    *_, last = stdout.splitlines()
    assert last == "Saved in ./lightning_logs/version_0. See: tensorboard --logdir lightning_logs"
    assert len(last) < 80  # of a terminal


def test_run_finds_the_hidden_map(ddp_run: tuple[str, Path]) -> None:
    curves = scalars(ddp_run[1])
    assert max(curves["val/r2"]) == 339
    assert curves["val/r2"][339] > 0.95
    assert curves["val/loss"][339] == pytest.approx(0.1**2, rel=0.2)  # the noise's variance
    assert curves["train/loss"][339] < 0.05


def test_run_writes_what_is_promised(ddp_run: tuple[str, Path]) -> None:
    _, folder = ddp_run
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["strategy"] == "ddp"
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 340
    assert len(list((folder / "checkpoints").glob("best-*.ckpt"))) == 1


def test_batch_sizes_add_up(ddp_run: tuple[str, Path]) -> None:
    curves = scalars(ddp_run[1])
    total, ranks = curves["batch_size/global"], [curves[f"batch_size/rank_{r}"] for r in (0, 1)]
    # Where equal sizes begin and end, up to the last batch of each epoch, which is smaller.
    ends = [34 * epoch + last for epoch in range(10) for last in (32, 33)]
    assert {step: total[step] for step in ends[::2]} == dict.fromkeys(ends[::2], 30)
    assert curves["batch_size/last"] == dict.fromkeys(ends[1::2], 10)
    assert set(total.values()) == {30}
    assert all(total[step] == sum(rank[step] for rank in ranks) for step in total)


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_tutorial_transcript_under_dp(devices: int, tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "tutorial.yaml")
    flags = ("--accelerator", "cpu", "--strategy", "dp", "--devices", str(devices))
    outcome = train("--config", config, *flags, cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert_transcript(outcome.stdout, expected_transcript(devices))


def test_tutorial_transcript_under_ddp(tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "tutorial.yaml")
    flags = ("--accelerator", "cpu", "--strategy", "ddp", "--devices", "2")
    outcome = train("--config", config, *flags, cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert_transcript(outcome.stdout, expected_transcript(2))


def expected_transcript(devices: int) -> list[str]:
    """What the tutorial prints: each batch of 30, 30, 30 and 10 in the chunks of `torch.chunk`."""
    lines = []
    for batch in (30, 30, 30, 10):
        for part in torch.zeros(batch, 5).chunk(devices):
            sizes = f"input size {part.shape} output size {torch.Size((len(part), 2))}"
            lines.append(f"\tIn Model: {sizes}")
        sizes = f"input size {torch.Size((batch, 5))} output_size {torch.Size((batch, 2))}"
        lines.append(f"Outside: {sizes}")
    return lines


def assert_transcript(stdout: str, expected: list[str]) -> None:
    for line, beginning in zip(transcript(stdout), expected, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_expected_transcript_is_the_recorded_one(devices: int) -> None:
    recorded = ROOT.parent / "shared" / "tutorial" / f"{devices}_devices.txt"
    if not recorded.exists():
        pytest.skip("the tutorial's recorded output is not beside this checkout")
    assert expected_transcript(devices) == recorded.read_text().splitlines()


STRATEGIES = {"single_device": 1, "auto": 2, "dp": 3, "ddp": 2}
STRATEGIES |= dict.fromkeys(("ddp_spawn", "ddp_fork", "ddp_notebook"), 2)
DEV_RUNS = {config.stem: ("--config", str(config)) for config in CONFIGS} | {
    f"--strategy {name}": ("--accelerator", "cpu", "--strategy", name, "--devices", str(devices))
    for name, devices in STRATEGIES.items()
}


@pytest.fixture(scope="module")
def dev_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Path]]:
    """Two at a time: most of each is its start."""
    folders = {name: tmp_path_factory.mktemp("dev_run") for name in DEV_RUNS}

    def run(name: str) -> tuple[Outcome, Path]:
        return train("--fast_dev_run", *DEV_RUNS[name], cwd=folders[name]), folders[name]

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(DEV_RUNS, pool.map(run, DEV_RUNS), strict=True))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", DEV_RUNS)
def test_fast_dev_run_works(name: str, dev_runs: dict[str, tuple[Outcome, Path]]) -> None:
    outcome, folder = dev_runs[name]
    assert outcome.status == 0, outcome.stderr
    assert list(folder.iterdir()) == []
    if name.startswith("--strategy"):
        devices = STRATEGIES[name.split()[1]]
        assert len(transcript(outcome.stdout)) == devices + 1


def test_default_config_is_what_no_config_does(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    outcome = train("--print_config", cwd=tmp_path)
    defaults = yaml.safe_load(outcome.stdout)
    for key, section in config.items():
        if key == "seed_everything":
            assert section == defaults[key]
        elif key == "trainer":
            # In no config: a limit that is asked for is the only one.
            assert section.pop("max_epochs") == DEFAULT_MAX_EPOCHS
            assert section.items() <= defaults[key].items()
        else:
            assert section["class_path"] == defaults[key]["class_path"]
            assert section["init_args"].items() <= defaults[key]["init_args"].items()


@pytest.mark.parametrize("strategy", ["dp", "ddp"])
def test_any_model_and_data_train(strategy: str, tmp_path: Path) -> None:
    classes = ("--model", f"{BORING}.BoringModel", "--data", f"{BORING}.BoringDataModule")
    flags = ("--accelerator", "cpu", "--devices", "2", "--strategy", strategy)
    outcome = train(*classes, *flags, "--max_epochs", "1", cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert transcript(outcome.stdout)[0].startswith(
        "\tIn Model: input size torch.Size([1, 32]) output size torch.Size([1, 2])"
    )


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_subcommands_use_the_last_checkpoint(
    subcommand: str, ddp_run: tuple[str, Path], tmp_path: Path
) -> None:
    last = str(ddp_run[1] / "checkpoints" / "last.ckpt")
    flags = ("--accelerator", "cpu", "--devices", "3", "--strategy", "ddp")
    outcome = train(subcommand, "--ckpt_path", last, *flags, cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    layout = "3 CPU processes, ddp, global batch 30 = 10 + 10 + 10"
    assert outcome.stdout.splitlines().count(layout) == 1
    end = f"{'Saved' if subcommand == 'predict' else 'Logged'} in ./lightning_logs/version_0"
    assert outcome.stdout.splitlines()[-1].startswith(end)
    if subcommand == "predict":
        predictions = torch.load(tmp_path / "lightning_logs" / "version_0" / "predictions.pt")
        data = RandomDataset(5, 200, part="test")
        assert predictions.shape == data.y.shape
        assert torch.nn.functional.mse_loss(predictions, data.y) < 0.02  # sample for sample
    else:
        tag = {"validate": "val", "test": "test"}[subcommand]
        curves = scalars(tmp_path / "lightning_logs" / "version_0")
        assert next(iter(curves[f"{tag}/r2"].values())) > 0.95


def test_fallback_is_told_in_one_line(tmp_path: Path) -> None:
    if torch.cuda.device_count() >= 2:
        pytest.skip("this machine has the two GPUs asked for")
    outcome = train("--devices", "2", "--fast_dev_run", cwd=tmp_path)
    assert outcome.status == 0
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.startswith("asked for --devices 2, found")
    assert "lightning_app.doctor" in outcome.stderr


def test_a_refused_continuation_leaves_the_run_as_it_was(
    ddp_run: tuple[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "lightning_logs" / "version_0"
    shutil.copytree(ddp_run[1], run)
    before = {path: path.stat().st_size for path in run.rglob("*") if path.is_file()}
    for flags in (
        ("--devices", "2", "--strategy", "ddp", "--sync_batchnorm"),
        ("--model", f"{BORING}.BoringModel"),
    ):
        more = ("--accelerator", "cpu", "--max_epochs", "20", "--ckpt_path", "last")
        outcome = train(*more, *flags, cwd=tmp_path)
        assert outcome.status == 2
        assert outcome.stderr.count("\n") == 1, outcome.stderr
        assert {path: path.stat().st_size for path in run.rglob("*") if path.is_file()} == before


def test_our_defaults_are_not_those_of_a_users_classes(tmp_path: Path) -> None:
    outcome = train("--data", "tests.user_modules.Shuffled", "--print_config", cwd=tmp_path)
    assert yaml.safe_load(outcome.stdout)["data"]["init_args"]["length"] == 41


def test_the_same_batches_are_overfitted(tmp_path: Path) -> None:
    flags = ("--overfit_batches", "2", "--max_epochs", "2", "--accelerator", "cpu")
    outcome = train(*flags, cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    curves = scalars(tmp_path / "lightning_logs" / "version_0")
    assert curves["batch_size/global"] == dict.fromkeys(range(4), 30)
    assert "coverage" not in outcome.stdout  # nothing is missing, or repeated


def test_what_a_users_objects_hold_is_written_at_the_end(tmp_path: Path) -> None:
    """What is imported is kept from the garbage collector, and nothing of the user's."""
    (tmp_path / "holds.py").write_text(
        "from lightning_app.model import LinearModule\n"
        "class Holder:\n"
        "    def __init__(self):\n"
        "        self.me = self  # only the collector can tell that nobody needs it\n"
        "    def __del__(self):\n"
        "        print('the last line')\n"
        "class Model(LinearModule):\n"
        "    def on_fit_end(self):\n"
        "        Holder()\n"
    )
    flags = ("--accelerator", "cpu", "--model", "holds.Model", "--fast_dev_run")
    process = start(*flags, cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=100)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.endswith("the last line\n")
