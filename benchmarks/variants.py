"""One training run to be timed, in this process: `python -m benchmarks.variants NAME …`.

Prints the microseconds of a step, the epoch after the first, as JSON. Every variant trains the
tutorial's 5 → 2 layer with SGD on batches of 30 in all, with a loss and a batch size in TensorBoard
each 50 steps at least; none validates.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torch.utils.tensorboard import SummaryWriter

from lightning_app.data import RandomDataset

BATCH_SIZE, LOG_EVERY, EPOCHS = 30, 50, 3


class Clock(pl.Callback):
    """Times each epoch of a Lightning run, with no work in a step."""

    def __init__(self) -> None:
        self.step_us: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note the time and the step."""
        self.start_s, self.start_step = time.perf_counter(), trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Tell the time of a step, and print the last epochs' best at the end."""
        elapsed_s = time.perf_counter() - self.start_s
        self.step_us.append(elapsed_s / (trainer.global_step - self.start_step) * 1e6)
        if trainer.is_global_zero and len(self.step_us) == EPOCHS:
            tell(self.step_us)


def tell(step_us: list[float]) -> None:
    """Print the fastest epoch after the first, in microseconds a step."""
    print(json.dumps({"step_us": min(step_us[1:])}), flush=True)


class UsualModule(pl.LightningModule):
    """The layer as most Lightning modules are written: two `self.log` calls in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(5, 2)

    def training_step(self, batch: Any) -> Any:
        """Log the loss and the batch size."""
        loss = mse_loss(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True)
        self.log("batch_size", float(len(batch[0])))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.05)


def plain(dataset: Dataset[Any], processes: int, accelerator: Any = None) -> None:
    """A loop as in PyTorch's tutorials; with several processes DDP over gloo, as by `torchrun`."""
    rank = int(os.environ.get("RANK", 0))
    net: Any = torch.nn.Linear(5, 2)
    if processes > 1 and accelerator is None:
        dist.init_process_group("gloo")
        net = DistributedDataParallel(net)
    sampler: Any = DistributedSampler(dataset) if dist.is_initialized() else None
    size = BATCH_SIZE // processes
    loader: Any = DataLoader(dataset, size, shuffle=sampler is None, sampler=sampler)
    optimizer: Any = torch.optim.SGD(net.parameters(), lr=0.05)
    if accelerator is not None:
        net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    writer = SummaryWriter(tempfile.mkdtemp()) if rank == 0 else None
    step_us, step = [], 0
    for _ in range(EPOCHS):
        start_s, start_step = time.perf_counter(), step
        for x, y in loader:
            optimizer.zero_grad()
            loss = mse_loss(net(x), y)
            backward: Any = torch.Tensor.backward if accelerator is None else accelerator.backward
            backward(loss)
            optimizer.step()
            step += 1
            if writer is not None and step % LOG_EVERY == 0:
                writer.add_scalar("train/loss", loss.item(), step)
                writer.add_scalar("batch_size", len(x), step)
        step_us.append((time.perf_counter() - start_s) / (step - start_step) * 1e6)
    if rank == 0:
        tell(step_us)


def usual(dataset: Dataset[Any], processes: int) -> None:
    """Lightning's defaults: its bar, logger, checkpoint and strategy."""
    loader = DataLoader(dataset, BATCH_SIZE // processes, shuffle=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="auto" if processes == 1 else "ddp",
        max_epochs=EPOCHS,
        default_root_dir=tempfile.mkdtemp(),
        callbacks=[Clock()],
    )
    trainer.fit(UsualModule(), loader)


def ours(samples: int, processes: int, flags: list[str]) -> None:
    """`train.py` with its defaults, through its own command line."""
    from lightning_app.cli import main

    if "LOCAL_RANK" not in os.environ:
        sys.argv[1:] = [
            *("fit", "--accelerator", "cpu", "--devices", str(processes), "--strategy"),
            *("auto" if processes == 1 else "ddp", "--max_epochs", str(EPOCHS)),
            *("--data.length", str(samples), "--limit_val_batches", "0"),
            *("--default_root_dir", tempfile.mkdtemp()),
            *("--trainer.callbacks", "benchmarks.variants.Clock", *flags),
        ]
    main()


def main() -> None:
    """Run the variant that is named."""
    warnings.simplefilter("ignore")
    if "fit" in sys.argv[1:2]:  # a rank that `ddp` started
        ours(0, 0, [])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["plain", "usual", "accelerate", "ours"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    args, flags = parser.parse_known_args()
    samples = args.steps * BATCH_SIZE
    if args.name == "ours":
        ours(samples, args.processes, flags)
        return
    dataset = RandomDataset(5, samples)
    if args.name == "usual":
        usual(dataset, args.processes)
    elif args.name == "plain":
        plain(dataset, args.processes)
    else:
        from accelerate import Accelerator

        plain(dataset, args.processes, Accelerator(cpu=True))


if __name__ == "__main__":
    main()
