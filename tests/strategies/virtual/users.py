"""Models and data whose numbers depend on everything that virtual ranks have to keep apart."""

import hashlib
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate
from torchmetrics import Accuracy
from typing_extensions import override

NUM_SAMPLES = 101
NUM_CLASSES = 3
LENGTH = 8  # of sequences


class Classifier(LightningModule):
    """Logs as people do: per step and epoch, by numbers and by a torchmetrics object."""

    log_shapes = "off"

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = Accuracy(task="multiclass", num_classes=NUM_CLASSES)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        *inputs, y = batch
        loss = F.cross_entropy(self(*inputs), y)
        self.log("own_loss", loss, on_step=True, on_epoch=True)
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        *inputs, y = batch
        logits = self(*inputs)
        self.log("val/loss", F.cross_entropy(logits, y))
        self.accuracy(logits, y)
        self.log("val/accuracy", self.accuracy)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class CNN(Classifier):
    """BatchNorm, dropout, and noise that is added on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("strided", torch.arange(4.0)[::2])
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(4 * 64, NUM_CLASSES),
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.view(-1, 1, 8, 8))  # type: ignore[no-any-return]

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return (x + 0.1 * torch.randn_like(x) if self.trainer.training else x), y


class Shown(CNN):
    """Has its splits shown."""

    log_shapes = "change"


class Branches(CNN):
    """Has parameters that some parts alone use, some that none does, and some that are shared.

    A moving average is in a plain tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rare, self.never = nn.Linear(64, NUM_CLASSES), nn.Linear(64, NUM_CLASSES)
        self.tied = nn.Linear(4 * 64, NUM_CLASSES)
        self.tied.weight = self.body[5].weight  # type: ignore[assignment]
        self.mean = torch.zeros(64)

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        x = x - self.mean.to(x)
        logits: Tensor = super().forward(x) + self.tied(x.repeat(1, 4))
        chosen = x[:, :1] > 1.5
        return logits + chosen * self.rare(x) if chosen.any() else logits

    @override
    def on_fit_start(self) -> None:
        self.mean = self.mean.to(self.device)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mean"] = self.mean.clone()  # as a plain tensor is in none

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.mean = checkpoint["mean"]


class Searches(CNN):
    """Has its optimizer ask for the loss of a batch again and again."""

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), max_iter=3, line_search_fn="strong_wolfe")


def never(graph: Any, inputs: Any) -> Any:
    """Stands for torch.compile's backend, whose kernels depend on the shapes of a process."""
    raise AssertionError("what a model compiles runs uncompiled")


class Transformer(Classifier):
    """Dropout, and a mask of what is padding; compiles most of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16, padding_idx=0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.encoder.compile(backend=never)
        self.head = nn.Linear(16, NUM_CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        tokens = (x[:, :LENGTH].abs() * 6).long().clamp(max=19)
        tokens[:, 0] = 1
        states = self.encoder(self.embedding(tokens), src_key_padding_mask=tokens == 0)
        return self.head(states.mean(1))  # type: ignore[no-any-return]


class GRU(Classifier):
    """A recurrent net."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 12, batch_first=True)
        self.head = nn.Linear(12, NUM_CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        _, state = self.gru(x.view(-1, 8, 8))
        return self.head(state[0])  # type: ignore[no-any-return]


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Random pictures, or sequences.

    Args:
        augments: Change each at random, by all three generators.
    """

    def __init__(self, augments: bool = False) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(NUM_SAMPLES, 64, generator=generator)
        self.y = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
        self.augments = augments

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        if self.augments:
            x = x + 0.1 * torch.randn(64) + random.random() + float(np.random.rand())
        return x, self.y[index]

    def __len__(self) -> int:
        return NUM_SAMPLES


def noisy(samples: list[Any]) -> Any:
    """A `collate_fn` that draws."""
    x, y = default_collate(samples)
    return x + 0.1 * torch.randn_like(x), y


class Data(LightningDataModule):
    """Plain loaders.

    Args:
        batch_size: Of the global batch.
        augments: As `Samples`, and batches once more.
        num_workers: Of the training loader.
    """

    def __init__(self, batch_size: int, augments: bool = False, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size, self.augments, self.num_workers = batch_size, augments, num_workers

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        data, workers = Samples(self.augments), self.num_workers
        collate = noisy if self.augments else None
        size = self.batch_size
        return DataLoader(data, size, shuffle=True, num_workers=workers, collate_fn=collate)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(), 47)


def sha256(trainer: Any) -> str:
    """The hash of all weights, buffers and states of optimizers, bit for bit."""
    found = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous()
            found.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
            found.update(array.view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                add(f"{name}.{key}", value[key])
        elif isinstance(value, list):
            for number, each in enumerate(value):
                add(f"{name}.{number}", each)
        else:
            found.update(f"{name} {value!r}".encode())

    add("model", dict(trainer.lightning_module.state_dict()))
    for number, optimizer in enumerate(trainer.optimizers):
        add(f"optimizer {number}", optimizer.state_dict())
    return found.hexdigest()
