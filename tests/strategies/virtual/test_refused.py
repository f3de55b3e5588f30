"""What virtual ranks cannot keep their promise with: one line, exit code 2, nothing written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_app import strategies
from tests.in_process import InProcess
from tests.runs import fit
from tests.user_modules import Samples, Shuffled, Stream, Submodule, TwoOptimizers

__all__ = ["Shuffled", "Stream", "TwoOptimizers"]  # named on command lines below


class Sparse(Submodule):
    """Has sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 2, sparse=True)


class SparseCalls(Submodule):
    """Asks for sparse gradients in a call."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(4, 2))

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows = embedding(torch.arange(len(batch[0])) % 4, self.table, sparse=True)
        return mse_loss(self.body(batch[0]) + rows, batch[1])


class Gathers(Submodule):
    """Asks all ranks in a step."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.all_gather(batch[0])
        return super().training_step(batch, batch_idx)


class Computes(Submodule):
    """Computes a metric over all ranks in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("mean", self.mean(loss))  # that of a part
        self.log("all", self.mean.compute())
        return loss


class Normalized(Submodule):
    """Has a layer that takes the statistics of all devices at once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.SyncBatchNorm(4)


class Before(Submodule):
    """Acts on a whole batch before its transfer."""

    @override
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


class Synced(Submodule):
    """Has a metric that asks all ranks in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric(dist_sync_on_step=True)


class Forgets(Submodule):
    """Returns no loss for one part."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if len(batch[0]) == 1 else loss


class Hooked(Submodule):
    """Acts on each gradient as soon as there is one."""

    @override
    def on_train_start(self) -> None:
        weight: Any = self.body[0].weight
        weight.register_post_accumulate_grad_hook(lambda p: None)


class Replaces(Submodule):
    """Puts loaders of its own in the place of the Trainer's, from the second epoch on."""

    @override
    def on_train_start(self) -> None:
        loop: Any = self.trainer.fit_loop
        loop._combined_loader.flattened = [DataLoader(Samples(20), 10)]


class Predicts(LightningModule):
    """Nothing to train."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 2)

    @override
    def forward(self, batch: Any) -> Tensor:
        return self.body(batch[0])  # type: ignore[no-any-return]


class Two(LightningDataModule):
    """Two loaders at once."""

    @override
    def train_dataloader(self) -> Any:
        return {"a": DataLoader(Samples(20), 10), "b": DataLoader(Samples(20), 5)}

    def predict_dataloader(self) -> Any:
        return DataLoader(Samples(20), 10)


class ReadyMade(LightningDataModule):
    """An index asks for a whole batch."""

    @override
    def train_dataloader(self) -> Any:
        return DataLoader(Samples(20), batch_size=None)


REFUSED = [
    ("TwoOptimizers", "Shuffled", "TwoOptimizers uses manual optimization"),
    ("Sparse", "Shuffled", "table has sparse=True"),
    ("SparseCalls", "Shuffled", "a gradient is sparse, and only dense ones are added up in"),
    ("Gathers", "Shuffled", "all_gather in a step would wait for all virtual ranks"),
    ("Computes", "Shuffled", "mean.compute() in a step would wait for all virtual ranks"),
    ("Normalized", "Shuffled", "norm is a SyncBatchNorm"),
    ("Before", "Shuffled", "Before.on_before_batch_transfer gets a whole batch"),
    ("Synced", "Shuffled", "mean has dist_sync_on_step=True"),
    ("Forgets", "Shuffled", "cannot skip a step: return the loss times 0"),
    ("Hooked", "Shuffled", "each part: remove the hook, or run without --virtual_ranks"),
    ("Submodule", "Stream", "the data set NumberStream is an IterableDataset"),
    ("Submodule", "Two", "takes its batch of several loaders at once"),
    ("Submodule", "ReadyMade", "the loader has batch_size=None, and 0 asks for one whole batch"),
    ("OverIterator", "Shuffled", "OverIterator.training_step takes the loader's iterator"),
]


@pytest.mark.filterwarnings("default")
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = InProcess(tmp_path, monkeypatch, capsys)
    here = (__name__, "tests.user_modules")
    for model, data, line in REFUSED:
        paths = [here[0] if name in globals() else here[1] for name in (model, data)]
        run.refused(
            line,
            *("--model", f"{paths[0]}.{model}", "--data", f"{paths[1]}.{data}"),
            *("--virtual_ranks", "4", "--max_epochs", "1", "--num_sanity_val_steps", "0"),
        )
    run.refused(
        "it is for fit, validate and test",
        *("predict", "--model", f"{__name__}.Predicts", "--data", f"{__name__}.Two"),
        *("--virtual_ranks", "4"),
    )
    run.refused("--virtual_ranks: --sync_batchnorm", "--sync_batchnorm", "--virtual_ranks", "4")
    assert torch.get_num_threads() == 1


def test_loaders_in_the_place_of_the_trainers_are_refused() -> None:
    virtual: Any = strategies.with_virtual_ranks("single_device", 4)
    with pytest.raises(MisconfigurationException, match="put loaders in the place of the Trainer"):
        fit(virtual, 1, Replaces(), Shuffled(), max_epochs=2)
