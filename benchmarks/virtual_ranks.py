"""What `--virtual_ranks` costs: `python -m benchmarks.virtual_ranks`.

A step of a net of a few layers, on one CPU process and on several, with and without virtual ranks.
Each measurement is a fresh process, or several, with one thread each; a first epoch warms up and is
dropped.

Not covered: GPUs, validation, and what else happens between epochs.
"""

from collections.abc import Sequence
from functools import partial

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from benchmarks import timing
from benchmarks.step_variants import LOG_EVERY, NUM_EPOCHS
from benchmarks.timing import Ratio

BATCH_SIZE = 1024
WIDTH = 512
NUM_LAYERS = 4


class Deep(LightningModule):
    """Some linear layers with dropout, about a million parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(NUM_LAYERS)]
        self.net = nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(WIDTH, 1))

    @override
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return mse_loss(self.net(x), y)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class DeepData(LightningDataModule):
    """Random samples in memory.

    Args:
        num_samples: How many.
    """

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.data = TensorDataset(torch.randn(num_samples, WIDTH), torch.randn(num_samples, 1))

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.data, BATCH_SIZE, shuffle=True)


def us_per_step(devices: int, virtual_ranks: int | None, steps: int) -> float:
    """One measurement."""
    command = [
        str(timing.ROOT / "train.py"),
        "--model=benchmarks.virtual_ranks.Deep",
        "--data=benchmarks.virtual_ranks.DeepData",
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
    parser.add_argument("--steps", type=int, default=40, help="in an epoch")
    parser.add_argument("--processes", default="1,2", help="numbers of processes, with commas")
    args = parser.parse_args(argv)
    steps, rounds = (4, 1) if args.quick else (args.steps, args.rounds)
    print(timing.machine())
    done = []
    for processes in map(int, args.processes.split(",")):
        same, eight = f"{processes} virtual", "8 virtual"
        ranks = {"plain": None, same: processes, eight: 8}
        variants = {name: partial(us_per_step, processes, v, steps) for name, v in ranks.items()}
        noun = "process" if processes == 1 else "processes"
        ratios = [Ratio(same, "plain", "<= 1.10"), Ratio(eight, "plain")]
        title = f"{processes} CPU {noun}"
        done.append(timing.compare(title, "µs per step", variants, rounds, ratios))
    timing.write(done, args.out, "virtual_ranks")


if __name__ == "__main__":
    main()
