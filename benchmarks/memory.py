"""What a long data set costs in memory: `python -m benchmarks.memory`.

The peak of a process that trains for an epoch on a user's shuffled DataLoader, under `train.py` and
under a plain `Trainer`, alone and as one of four (the largest). The samples themselves take none.
Linux only, where a process can be asked for its peak.
"""

import platform
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from benchmarks import timing
from benchmarks.scaling import peak_mib
from benchmarks.timing import Ratio

TRAINER, OURS = "plain Trainer", "train.py"
BATCH_SIZE = 10_000  # of the global batch
BARS = {1: "<= 1.0", 4: "<= 0.5"}


class Computed(Dataset[Tensor]):
    """Samples that are made of their index, whole batches at once."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: list[int]) -> Tensor:
        """Samples `(B, 1)`, float32."""
        return torch.tensor(indices, dtype=torch.float32)[:, None] / self.length


def as_it_is(batch: Any) -> Any:
    """A batch that needs no collation."""
    return batch


class LongData(LightningDataModule):
    """A shuffled loader of many samples."""

    def __init__(self, length: int = 10**7, batch_size: int = BATCH_SIZE) -> None:
        super().__init__()
        self.length, self.batch_size = length, batch_size

    @override
    def train_dataloader(self) -> DataLoader[Tensor]:
        dataset = Computed(self.length)
        return DataLoader(dataset, self.batch_size, shuffle=True, collate_fn=as_it_is)


class Line(LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    @override
    def training_step(self, batch: Tensor) -> Tensor:
        return mse_loss(self.net(batch), batch)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Peak(Callback):
    """Tells the largest peak among the ranks."""

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        peaks = trainer.strategy.all_gather(torch.tensor(peak_mib()))
        if trainer.is_global_zero:
            timing.tell(mib=float(peaks.max()))


def plain_trainer(length: int, processes: int) -> None:
    """Train as a script does that knows Lightning alone."""
    Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=1,
        enable_progress_bar=False,
        callbacks=[Peak()],
    ).fit(Line(), LongData(length, BATCH_SIZE // processes))


def mib(variant: str, length: int, processes: int) -> float:
    """One measurement."""
    if variant == TRAINER:
        size = [f"--length={length}", f"--processes={processes}"]
        return timing.run("-m", "benchmarks.memory", "--train", *size)["mib"]
    return timing.run(
        str(timing.ROOT / "train.py"),
        "--model=benchmarks.memory.Line",
        "--data=benchmarks.memory.LongData",
        f"--data.length={length}",
        "--accelerator=cpu",
        f"--devices={processes}",
        "--max_epochs=1",
        "--trainer.callbacks+=benchmarks.memory.Peak",
    )["mib"]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = timing.parser(__doc__, rounds=1)
    parser.add_argument("--length", type=int, default=10**7, help="samples of the data set")
    parser.add_argument("--processes", default="1,4", help="numbers of processes, with commas")
    parser.add_argument("--train", action="store_true", help="only train with a plain Trainer")
    args = parser.parse_args(argv)
    if args.train:
        plain_trainer(args.length, int(args.processes))
        return
    if platform.system() != "Linux":
        sys.exit("benchmarks.memory reads /proc, which only Linux has")
    length, counts = (10**5, "1") if args.quick else (args.length, args.processes)
    print(timing.machine())
    done = []
    for processes in map(int, counts.split(",")):
        variants = {v: partial(mib, v, length, processes) for v in (TRAINER, OURS)}
        ratios = [Ratio(OURS, TRAINER, BARS.get(processes, ""))]
        title = f"Peak memory, {length:,} samples, processes: {processes}"
        done.append(timing.compare(title, "MiB", variants, args.rounds, ratios))
    timing.write(done, args.out, "memory")


if __name__ == "__main__":
    main()
