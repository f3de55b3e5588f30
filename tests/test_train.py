"""The commands of the README, run as a user runs them."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_app.cli import main
from lightning_app.data import RandomDataset
from tests.cli import ROOT, train, transcript
from tests.events import scalars

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
    assert list(total) == list(range(340))
    assert all(total[step] == sum(rank[step] for rank in ranks) for step in total)
    for epoch in range(10):
        assert sum(total[step] for step in range(34 * epoch, 34 * (epoch + 1))) == 1000


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
    for line, start in zip(transcript(stdout), expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_expected_transcript_is_the_recorded_one(devices: int) -> None:
    recorded = ROOT.parent / "shared" / "tutorial" / f"{devices}_devices.txt"
    if not recorded.exists():
        pytest.skip("the tutorial's recorded output is not beside this checkout")
    assert expected_transcript(devices) == recorded.read_text().splitlines()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_fast_dev_run_works_with_every_config(config: Path, tmp_path: Path) -> None:
    outcome = train("--config", str(config), "--fast_dev_run", cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "strategy", ["auto", "single_device", "dp", "ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"]
)
def test_fast_dev_run_works_with_every_strategy(strategy: str, tmp_path: Path) -> None:
    devices = "1" if strategy == "single_device" else "2"
    flags = ("--accelerator", "cpu", "--strategy", strategy, "--devices", devices)
    outcome = train("--fast_dev_run", *flags, cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert len(transcript(outcome.stdout)) == int(devices) + 1
    assert list(tmp_path.iterdir()) == []


def test_default_config_is_what_no_config_does(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    outcome = train("--print_config", cwd=tmp_path)
    defaults = yaml.safe_load(outcome.stdout)
    for key, section in config.items():
        if key == "seed_everything":
            assert section == defaults[key]
        elif key == "trainer":
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


ERRORS = {
    "--no_such_flag 1": "unrecognized arguments: --no_such_flag 1",
    "--strategy nope": "--strategy nope: it must be auto, ddp,",
    "--devices 0": "--devices 0: it must be a positive number",
    "--devices -3": "--devices -3: it must be a positive number",
    "--devices abc": "--devices abc: it must be a positive number",
    "--accelerator xpu": "invalid accelerator name: `accelerator='xpu'`",
    "--data.batch_size 0": "batch_size is 0: it must be 1 or more",
    "--data.length 0": "length is 0: it must be 1 or more",
    "--data.input_size -2": "input_size is -2: it must be",
    "--data.noise_std -1": "noise_std is -1.0: it must be 0 or more",
    "--model.lr 0": "lr is 0.0: it must be more than 0",
    "--model.optimizer Nope": "optimizer is 'Nope': use one of",
    "--config missing.yaml": "File does not exist",
    "--config broken.yaml": "Problems parsing config",
    "--config unknown.yaml": "does not accept option 'trainer.max_epoch'",
    "--model no.such.Class": "--model no.such.Class: No module named 'no'",
    "--model torch.nn.Linear": "not correspond to a subclass of LightningModule",
    "--ckpt_path missing.ckpt": "--ckpt_path missing.ckpt does not exist",
    "--ckpt_path broken.yaml": "--ckpt_path broken.yaml is no whole checkpoint",
    "--ckpt_path last": "--ckpt_path last: no checkpoint in lightning_logs",
    "--max_epochs abc": "--max_epochs abc: it must be int",
    "--save_every_s 0": "--save_every_s 0: it must be a number above 0",
    "--steps_per_execution x": "--steps_per_execution x: it must be a whole number above 0",
    "--logger CSVLogger": "--logger: the following arguments are required: save_dir",
    "--plugins nope": "--plugins nope: it must be the path of a class or list",
    "--device 2": "--device: is it --devices?",
    "--accumulate_grad_batches 0": "--accumulate_grad_batches 0: it must be 1 or more",
    "--val_check_interval 0": "--val_check_interval 0: it must be a number above 0",
    "--val_check_interval 99": "`val_check_interval` (99) must be less than or equal to",
    "--default_root_dir broken.yaml": "--default_root_dir broken.yaml: no folder can be made",
    "--data.seed -1": "seed is -1: it must be 0 or more",
    "--model.input_size 7": "--model.input_size: the data tells it; use --data.input_size",
    "--strategy single_device --devices 2 --accelerator cpu": "runs on one device, not on 2",
    "--strategy dp --num_nodes 2": "--strategy dp --num_nodes 2: replicas live in one process",
    "--strategy dp --sync_batchnorm --accelerator cpu": "--sync_batchnorm does nothing",
}


@pytest.mark.filterwarnings("default::DeprecationWarning")  # Lightning uses what is deprecated
@pytest.mark.parametrize("command", ERRORS)
def test_a_users_error_is_one_line(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.yaml").write_text("trainer:\n  max_epochs: [1,\n")
    (tmp_path / "unknown.yaml").write_text("trainer:\n  max_epoch: 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *command.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert ERRORS[command] in output.err
    assert output.err.count("\n") == 1
    assert output.err.startswith("train.py: error: ")
    assert output.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"broken.yaml", "unknown.yaml"}


REFUSED = {
    "--model no.such.Class --devices 2 --strategy ddp": "No module named 'no'",
    "--strategy ddp --devices 2 --sync_batchnorm": "--sync_batchnorm needs GPUs",
    "--strategy ddp --devices 2 --data tests.user_modules.Stream": "NumberStream is an Iterable",
    "--strategy dp --devices 2 --model tests.user_modules.Functional": (
        "Functional.training_step calls no module that has parameters"
    ),
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_refused_run_ends_every_process_and_leaves_nothing(command: str, tmp_path: Path) -> None:
    outcome = train("--accelerator", "cpu", *command.split(), cwd=tmp_path)
    assert outcome.status == 2, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("error:") == 1
    assert REFUSED[command] in outcome.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


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
    assert list(curves["batch_size/global"].values()) == [30, 30, 30, 30]
    assert list(curves["coverage/missing"].values()) == [0, 0]


def test_gpus_demanded_by_name_are_an_error_where_there_is_none(tmp_path: Path) -> None:
    if torch.cuda.device_count():
        pytest.skip("this machine has a GPU")
    outcome = train("--accelerator", "gpu", cwd=tmp_path)
    assert outcome.status == 2
    assert "PyTorch sees 0 GPUs" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
