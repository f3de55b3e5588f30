"""`--data_on_device`: the same steps, from samples that are asked for once."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.speed.data_on_device import DataOnDevice, HeldSamples
from lightning_app.speed.direct_step import DirectStep
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.strategies.loaders.loader import ShardedLoader
from lightning_app.telemetry.coverage import Coverage
from tests.ranks import run_ranks
from tests.runs import Run, assert_same, fit, make_trainer
from tests.user_modules import Samples, Shuffled, Stream, Submodule

CPU = torch.device("cpu")


def train(strategy: str, devices: int, held: bool = True, **flags: Any) -> list[Run]:
    """Of whole batches by index tensors, and of samples one by one."""
    runs = []
    for make_model, data in (
        (Submodule, Shuffled()),
        (LinearModule, RandomDataModule(length=50, batch_size=7, val_length=10)),
    ):
        torch.manual_seed(1)
        callbacks = [Coverage(), DirectStep(), StepsPerExecution(3)]
        callbacks += [DataOnDevice()] if held else []
        flags = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1} | flags
        runs.append(fit(strategy, devices, make_model(), data, callbacks=callbacks, **flags))
    return runs


def test_the_steps_are_the_same_on_any_layout() -> None:
    fetched = train("single_device", 1, held=False)
    layouts = [train("single_device", 1), train("dp", 3), *run_ranks(train, 2, "ddp", 2)]
    for held in layouts:
        for run, other in zip(held, fetched, strict=True):
            assert_same(run, other)


@pytest.mark.gpu
def test_the_steps_are_the_same_on_a_gpu() -> None:
    fetched = train("single_device", 1, held=False)
    for run, other in zip(train("single_device", 1, accelerator="gpu"), fetched, strict=True):
        assert_same(run, other, tolerance=1e-10)


class Counting(Samples):
    """Counts how often a sample is asked for."""

    asked = 0

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.asked += 1
        return super().__getitem__(index)


class Held(LightningDataModule):
    """One loader."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__()
        self.loader = loader

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader


def test_no_sample_is_asked_for_in_training() -> None:
    samples = Counting(20)
    data = Held(DataLoader(samples, 6, shuffle=True))
    fit("single_device", 1, Submodule(), data, max_epochs=3, callbacks=[DataOnDevice()])
    assert samples.asked == 20 + 20  # once to be kept, once to be compared


def test_a_copy_of_indices_to_an_apple_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldSamples(DataLoader(Samples(4), 2), CPU)
    copies: list[Any] = []

    def to(tensor: Tensor, *args: Any, **flags: Any) -> Tensor:
        copies.append((*args, flags))
        return tensor

    monkeypatch.setattr(Tensor, "to", to)
    for device in (torch.device("mps", 0), torch.device("cuda", 0)):
        held._device = device
        held([1, 2])
    assert [flags for _, flags in copies] == [{}, {"non_blocking": True}]


def test_rows_of_a_collection() -> None:
    data = [{"x": torch.tensor([i, float("nan")]), "y": i} for i in range(5)]
    held = HeldSamples(DataLoader(data, 2), CPU)  # type: ignore[arg-type]
    batch = held([3, 1])
    assert batch["y"].tolist() == [3, 1]
    assert batch["x"][:, 0].tolist() == [3, 1]
    assert held(torch.tensor([4]))["y"].tolist() == [4]
    rows = torch.arange(6.0).reshape(3, 2)
    one_by_one = DataLoader(TensorDataset(rows), batch_size=None)
    assert HeldSamples(one_by_one, CPU)(next(iter(one_by_one.sampler)))[0].tolist() == [0, 1]


class Noisy(Samples):
    """Adds noise, as an augmentation does."""

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + torch.randn(5), y


def pad(words: list[list[int]]) -> Tensor:
    """As long as the longest."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(w) for w in words], batch_first=True)


DIFFERENT = "gives samples that differ each time, or by their batch; leave it out"
REFUSED = {
    "random": (DataLoader(Noisy(9), 2), f"Noisy {DIFFERENT}"),
    "padded": (DataLoader([[1]] * 9 + [[1, 2]], 2, collate_fn=pad), f"list {DIFFERENT}"),  # type: ignore[arg-type]
    "words": (DataLoader(["a", "b"], 2), "list gives something that is not a tensor"),  # type: ignore[arg-type]
    "pooled": (DataLoader(Samples(4), 2, collate_fn=lambda b: torch.zeros(3)), "not a tensor with"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_held_is_refused(case: str) -> None:
    loader, message = REFUSED[case]
    with pytest.raises(MisconfigurationException, match=message):
        HeldSamples(loader, CPU)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**20, 2**30))
    loader = DataLoader(TensorDataset(torch.zeros(2**19)), 2)
    with pytest.raises(MisconfigurationException, match="takes 2 MiB, and 1 MiB are free"):
        HeldSamples(loader, torch.device("cuda", 0))


def test_a_stream_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="--data_on_device: it needs one training"):
        fit("single_device", 1, Submodule(), Stream(), max_epochs=1, callbacks=[DataOnDevice()])


class BreaksOff(Callback):
    """Ends the run with an error."""

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("broken off")


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize("more", [[], [BreaksOff()]])
def test_nothing_is_held_after_a_run(more: list[Callback]) -> None:
    held = DataOnDevice()
    trainer = make_trainer("single_device", 1, max_epochs=1, callbacks=[held, *more])
    with pytest.raises(RuntimeError) if more else nullcontext():
        trainer.fit(Submodule(), Shuffled())
    loader = trainer.train_dataloader
    assert isinstance(loader, ShardedLoader)
    assert (loader.sharding.fetch, held._loader) == (None, None)
