"""What loaders draw otherwise in a run that is continued is told, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset
from typing_extensions import override

from lightning_app.checkpoint.resume import Resume
from tests.runs import SaveAt, fit
from tests.strategies.loaders.test_stateful_samplers import Counting


def samples(number: int) -> Dataset[tuple[Tensor, ...]]:
    return TensorDataset(torch.arange(float(number), dtype=torch.float64)[:, None])


class OwnWay(DataLoader[Any]):
    """Makes its batches itself, so it is left as it is."""

    @override
    def __iter__(self) -> Any:
        return super().__iter__()


class Data(LightningDataModule):
    """Loaders with generators of their own, or with one of several."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.generator = kind, torch.Generator().manual_seed(3)

    @override
    def train_dataloader(self) -> Any:
        if self.kind == "its own way":
            return OwnWay(samples(12), 4, shuffle=True)
        if self.kind == "batches its own way":
            batches = BatchSampler(RandomSampler(samples(12)), 4, drop_last=False)  # type: ignore[arg-type]
            return OwnWay(samples(12), batch_sampler=batches)
        both = [
            DataLoader(samples(12), 4, shuffle=True, generator=self.generator) for _ in range(2)
        ]
        return both if self.kind == "two" else both[0]

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        if self.kind == "sampler":
            return DataLoader(samples(23), 6, sampler=Counting())
        own = {"shared": self.generator, "own": torch.Generator().manual_seed(4)}.get(self.kind)
        return DataLoader(samples(5), 4, shuffle=bool(own), generator=own)


class Notes(LightningModule):
    """Notes its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.seen: list[Any] = []

    def note(self, *batches: list[Tensor]) -> Tensor:
        self.seen.append((self.global_step, [b[0].flatten().tolist() for b in batches]))
        return torch.stack([self.net(batch[0]).mean() for batch in batches]).sum()

    @override
    def training_step(self, batch: Any) -> Tensor:
        return self.note(*(batch if isinstance(batch[0], list) else [batch]))

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.note(batch)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


IN_TRAINING = "loaders that are trained on share a generator"
SHARED = "TensorDataset is validated within an epoch, by a generator that training draws from"


@pytest.mark.parametrize(
    ("kind", "every", "step", "line"),
    [
        ("two", 1.0, 2, IN_TRAINING),
        ("two", 1.0, 3, IN_TRAINING),
        ("shared", 1 / 3, 4, SHARED),
        ("shared", 1.0, 4, None),
        ("own", 1.0, 4, "the generator by which TensorDataset is validated is in no checkpoint"),
        ("sampler", 1.0, 4, "the passes of Counting in validation are in no checkpoint"),
        ("plain", 1 / 3, 4, None),
        ("batches its own way", 1.0, 3, "OwnWay is left as it is, and shuffles by a generator"),
        ("its own way", 1.0, 3, "OwnWay is left as it is, and shuffles by a generator"),
    ],
)
def test_another_order_is_told(
    kind: str,
    every: float,
    step: int,
    line: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "kept.ckpt"
    runs = []
    for ckpt_path, more in ((None, [SaveAt(step, path)]), (str(path), [])):
        model, flags = Notes(), {"max_epochs": 3, "val_check_interval": every}
        fit("single_device", 1, model, Data(kind), ckpt_path, callbacks=[*more, Resume()], **flags)
        runs.append(model.seen)
    whole, rest = runs
    assert (whole[-len(rest) :] == rest) == (line is None)
    told = [text for text in capsys.readouterr().err.splitlines() if "continued: " in text]
    assert len(told) == bool(line)
    assert not line or f"continued: {line}" in told[0]
