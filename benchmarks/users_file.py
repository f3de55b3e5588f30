"""A user's file under `train.py` and under a plain Trainer: `python -m benchmarks.users_file`.

What people bring: a LightningModule that logs two values in each step, and a DataLoader with
torch's own sampler and `collate_fn`. The Trainer has no progress bar. Each measurement is a fresh
process; a first epoch warms up and is dropped.

Not covered: several processes, validation and what else happens between epochs.
"""

from collections.abc import Sequence
from functools import partial

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from benchmarks import timing
from benchmarks.step_variants import LOG_EVERY, NUM_EPOCHS, StepTimer
from benchmarks.timing import Ratio

BATCH_SIZE = 30
TRAINER, OURS, GROUPED = "plain Trainer", "train.py", "train.py, K = 50"


class Usual(LightningModule):
    """A small net.

    Args:
        logs: Log two values in each step, one of them for the progress bar.
    """

    def __init__(self, logs: bool = True) -> None:
        super().__init__()
        self.logs = logs
        self.net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))

    @override
    def training_step(self, batch: list[Tensor], batch_idx: int) -> STEP_OUTPUT:
        x, y = batch
        predicted = self.net(x)
        loss = mse_loss(predicted, y)
        if self.logs:
            self.log("train_loss", loss, prog_bar=True)
            self.log("train_mae", (predicted - y).abs().mean())
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class UsualData(LightningDataModule):
    """Random samples in memory.

    Args:
        num_samples: How many.
    """

    def __init__(self, num_samples: int = 30_000) -> None:
        super().__init__()
        self.data = TensorDataset(torch.randn(num_samples, 5), torch.randn(num_samples, 2))

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.data, BATCH_SIZE, shuffle=True)


def plain_trainer(logs: bool, steps: int) -> None:
    """Train as a script does that knows Lightning alone."""
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=NUM_EPOCHS,
        log_every_n_steps=LOG_EVERY,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StepTimer()],
    )
    trainer.fit(Usual(logs), UsualData(steps * BATCH_SIZE))


def command(variant: str, logs: bool, steps: int) -> list[str]:
    """What runs a variant."""
    if variant == TRAINER:
        return ["-m", "benchmarks.users_file", f"--train={steps}", f"--logs={int(logs)}"]
    return [
        str(timing.ROOT / "train.py"),
        "--model=benchmarks.users_file.Usual",
        f"--model.logs={str(logs).lower()}",
        "--data=benchmarks.users_file.UsualData",
        f"--data.num_samples={steps * BATCH_SIZE}",
        "--accelerator=cpu",
        f"--max_epochs={NUM_EPOCHS}",
        f"--log_every_n_steps={LOG_EVERY}",
        f"--steps_per_execution={50 if variant == GROUPED else 1}",
        "--trainer.callbacks+=benchmarks.step_variants.StepTimer",
    ]


def us_per_step(variant: str, logs: bool, steps: int) -> float:
    """One measurement."""
    return timing.run(*command(variant, logs, steps))["us_per_step"]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = timing.parser(__doc__, rounds=7)
    parser.add_argument("--steps", type=int, default=1000, help="in an epoch")
    parser.add_argument("--train", type=int, help="only train so many steps, with a plain Trainer")
    parser.add_argument("--logs", type=int, default=1, help="with --train: whether the model logs")
    args = parser.parse_args(argv)
    if args.train:
        plain_trainer(bool(args.logs), args.train)
        return
    steps, rounds = (60, 1) if args.quick else (args.steps, args.rounds)
    print(timing.machine())
    done = []
    for logs, bar in ((True, ">= 1.2"), (False, ">= 1.0")):
        variants = {v: partial(us_per_step, v, logs, steps) for v in (TRAINER, OURS, GROUPED)}
        title = f"The usual file, {'two values logged in each step' if logs else 'nothing logged'}"
        ratios = [Ratio(TRAINER, OURS, bar), Ratio(TRAINER, GROUPED)]
        done.append(timing.compare(title, "µs per step", variants, rounds, ratios))
    timing.write(done, args.out, "users_file")


if __name__ == "__main__":
    main()
