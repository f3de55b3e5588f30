"""What `--virtual_ranks` costs: `python -m benchmarks.virtual_ranks`.

A step of a small convolutional net, which takes 20 ms or more: V = W virtual ranks on W CPU
processes beside plain `ddp` on as many, and V = 8 on one beside none. Each measurement is a fresh
process, or several, with one thread each; a first epoch warms up and is dropped. Batches are loaded
within the time. Each sample costs some 10 µs for random streams of its own, which counts where
samples are tiny.

Not covered: GPUs, validation, and what else happens between epochs.
"""

from collections.abc import Sequence
from functools import partial

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from benchmarks import timing
from benchmarks.step_variants import LOG_EVERY, NUM_EPOCHS
from benchmarks.timing import Ratio

BATCH_SIZE = 128
NUM_CLASSES = 10


class ConvNet(LightningModule):
    """Two convolutions with BatchNorm, dropout, and about a million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(  # (B, 3, 32, 32)
            *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64 * 8 * 8, 256), nn.ReLU()),
            nn.Linear(256, NUM_CLASSES),
        )

    @override
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Pictures(LightningDataModule):
    """Random pictures in memory.

    Args:
        num_samples: How many.
    """

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        labels = torch.randint(NUM_CLASSES, (num_samples,))
        self.data = TensorDataset(torch.randn(num_samples, 3, 32, 32), labels)

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.data, BATCH_SIZE, shuffle=True)


def us_per_step(devices: int, virtual_ranks: int | None, steps: int) -> float:
    """One measurement."""
    command = [
        str(timing.ROOT / "train.py"),
        "--model=benchmarks.virtual_ranks.ConvNet",
        "--data=benchmarks.virtual_ranks.Pictures",
        f"--data.num_samples={steps * BATCH_SIZE}",
        "--accelerator=cpu",
        f"--devices={devices}",
        f"--max_epochs={NUM_EPOCHS}",
        f"--log_every_n_steps={LOG_EVERY}",
        "--trainer.callbacks+=benchmarks.step_variants.StepTimer",
    ]
    if virtual_ranks is not None:
        command.append(f"--virtual_ranks={virtual_ranks}")
    return timing.run(*command)["us_per_step"]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = timing.parser(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=20, help="in an epoch")
    parser.add_argument("--processes", default="1,2", help="numbers of processes, with commas")
    args = parser.parse_args(argv)
    steps, rounds = (4, 1) if args.quick else (args.steps, args.rounds)
    print(timing.machine())
    done = []
    for processes in map(int, args.processes.split(",")):
        same, eight = f"{processes} virtual", "8 virtual"
        ranks = {"plain": None, same: processes} | ({eight: 8} if processes == 1 else {})
        variants = {name: partial(us_per_step, processes, v, steps) for name, v in ranks.items()}
        noun = "process" if processes == 1 else "processes"
        ratios = [Ratio(same, "plain", "<= 1.10"), Ratio(eight, "plain")]
        title = f"{processes} CPU {noun}"
        done.append(timing.compare(title, "µs per step", variants, rounds, ratios))
    timing.write(done, args.out, "virtual_ranks")


if __name__ == "__main__":
    main()
