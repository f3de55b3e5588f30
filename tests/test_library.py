"""The parts in a script of one's own: a strategy object and `callbacks()`, without `register()`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy as LightningsStrategy
from torch import Tensor
from typing_extensions import override

from lightning_app.model import LinearModule
from tests.command import ROOT, without_waits
from tests.runs import SaveAt, fit, make_trainer
from tests.train_to_end import clean_environment
from tests.user_modules import Shuffled, Submodule

SCRIPT = """
import sys

import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_app.callbacks import callbacks
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.strategies import DataParallelStrategy, DDPStrategy, SingleDeviceStrategy


def weights(strategy, devices):
    seed_everything(42)
    model = LinearModule(5, 2).double()
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, callbacks=callbacks(),
        max_epochs=1, precision="64-true", enable_progress_bar=False,
    )
    trainer.fit(model, RandomDataModule(length=101))
    return model.state_dict(), trainer.callback_metrics["val/loss"]


if __name__ == "__main__":
    if sys.argv[1:] == ["ddp"]:  # which starts the script again for its second rank
        found = {"ddp": weights(DDPStrategy(), 2)}
    else:
        found = {
            "one": weights(SingleDeviceStrategy(), 1),
            "dp": weights(DataParallelStrategy(), 3),
            "fork": weights(DDPStrategy(start_method="fork"), 2),
        }
    torch.save(found, f"{len(sys.argv)}.pt")
"""


@pytest.mark.timeout(180)
def test_numbers_are_the_same_without_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    found: dict[str, Any] = {}
    for arguments in ((), ("ddp",)):
        run = subprocess.run(
            [sys.executable, "script.py", *arguments],
            cwd=tmp_path,
            env={"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=80,
        )
        assert run.returncode == 0, run.stderr
        assert "DistributedSampler" not in run.stderr
        assert (
            "Outside: input size torch.Size([11, 5]) output_size torch.Size([11, 2])" in run.stdout
        )
        found |= torch.load(tmp_path / f"{len(arguments) + 1}.pt")
    assert found.keys() == {"one", "dp", "fork", "ddp"}
    for weights, loss in found.values():
        torch.testing.assert_close(weights, found["one"][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(loss, found["one"][1], rtol=1e-12, atol=0)


class ByMomentum(Submodule):
    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class Breaks(LinearModule):
    @override
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        if self.global_step == 1:
            raise RuntimeError("broken off")
        return super().training_step(batch)


TWICE = """
from lightning_app.cli import main

TWO = ["--accelerator", "cpu", "--max_epochs", "1", "--devices", "2", "--strategy", "ddp"]
main(["fit", *TWO])
print("goes on", flush=True)
main(["validate", "--accelerator", "cpu", "--ckpt_path", "last"])
main(["fit", *TWO])
"""


@pytest.mark.timeout(180)
def test_a_script_goes_on_in_its_first_process(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(TWICE)
    ended = subprocess.run(
        [sys.executable, "twice.py"],
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert ended.stdout.count("goes on\n") == 1
    assert "val/loss" in ended.stdout.split("goes on")[1]
    assert ended.returncode == 2
    line = "twice.py: error: a run of several processes has to be the first in its script"
    assert without_waits(ended.stderr).startswith(line)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_what_a_test_has_loaded_is_nothing_to_a_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    fit("single_device", 1, Submodule(), Shuffled(), max_steps=3, callbacks=[SaveAt(2, path)])
    trainer, model = make_trainer("single_device", 1, max_epochs=1), ByMomentum()
    trainer.validate(model, Shuffled(), ckpt_path=path)
    trainer.fit(model, Shuffled())  # its optimizer is another than that in the file
    assert trainer.global_step == 6
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, Shuffled())
    assert trainer.global_step == 12


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_is_broken_off_leaves_the_model_alone() -> None:
    model = Breaks(log_shapes="off")
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="broken off"):
        fit("single_device", 1, model)
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name


def test_the_order_goes_by_the_seed_under_lightnings_strategy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for seed in "1", "2", "1":
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        torch.manual_seed(0)
        strategy: Any = LightningsStrategy("cpu")
        run = fit(strategy, 1, Submodule(), Shuffled(), max_epochs=1)
        found.append(run.weights["body.0.weight"])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
