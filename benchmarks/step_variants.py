"""The peers that `benchmarks.step_cost` times, each a whole program: one workload, one telemetry.

`python -m benchmarks.step_variants NAME` (see `PROGRAMS`) trains for two epochs of as many
steps as asked and tells the second one's time per step. The loss and the batch size go to
TensorBoard each 50 steps. There is no validation. What happens between two epochs (checkpoints) is
not counted. This project needs no program here: it is run by `train.py`, with `StepTimer`.
"""

import argparse
import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from benchmarks import timing
from lightning_app.data import RandomDataset

NUM_EPOCHS = 2  # the first warms up
LOG_EVERY = 50


@dataclass(frozen=True)
class Workload:
    """One linear layer and its batches."""

    input_size: int = 5
    output_size: int = 2
    batch_size: int = 30  # of the global batch
    optimizer: str = "SGD"
    lr: float = 0.05

    def dataset(self, steps: int) -> RandomDataset:
        """As many samples as so many steps take."""
        return RandomDataset(self.input_size, self.batch_size * steps, self.output_size)

    def make_net(self) -> nn.Linear:
        """The layer."""
        return nn.Linear(self.input_size, self.output_size)

    def make_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """Its optimizer."""
        made: torch.optim.Optimizer = getattr(torch.optim, self.optimizer)(
            net.parameters(), lr=self.lr
        )
        return made


WORKLOADS = {
    "tutorial": Workload(),
    "wide": Workload(2048, 2048, 2048, "Adam", 0.001),  # configs/wide.yaml
}


def now_s(device: torch.device) -> float:
    """The time, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class StepTimer(Callback):
    """Tells the last epoch's time per step; costs nothing per step."""

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_s = now_s(pl_module.device)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_s = now_s(pl_module.device) - self._start_s

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            timing.tell(us_per_step=self._epoch_s / trainer.num_training_batches * 1e6)


Batches = Callable[[RandomDataset, int, int, int], Iterable[Any]]


def collated(dataset: RandomDataset, batch_size: int, epoch: int, processes: int) -> Iterable[Any]:
    """As the tutorials do: samples are fetched one by one, and stacked."""
    sampler = rank_sampler(dataset, epoch, processes)
    return DataLoader(dataset, batch_size, shuffle=sampler is None, sampler=sampler)


def whole(dataset: RandomDataset, batch_size: int, epoch: int, processes: int) -> Iterable[Any]:
    """A DataLoader that asks the data set for whole batches."""
    sampler = rank_sampler(dataset, epoch, processes) or RandomSampler(dataset)
    batches = BatchSampler(sampler, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None)


def sliced(dataset: RandomDataset, batch_size: int, epoch: int, processes: int) -> Iterable[Any]:
    """The leanest loop one can defend: slices of a stored permutation, and no DataLoader."""
    return map(dataset.__getitem__, torch.split(torch.randperm(len(dataset)), batch_size))


def rank_sampler(
    dataset: RandomDataset, epoch: int, processes: int
) -> "DistributedSampler[Any] | None":
    """This rank's part of the epoch, where there are several."""
    if processes == 1:
        return None
    sampler: DistributedSampler[Any] = DistributedSampler(dataset)
    sampler.set_epoch(epoch)
    return sampler


def plain_loop(
    rank: int, workload: Workload, args: argparse.Namespace, batches: Batches = collated
) -> float:
    """The loop that the PyTorch tutorials teach, on one rank; the last epoch's time in seconds."""
    device = torch.device("cuda", rank) if args.accelerator == "gpu" else torch.device("cpu")
    net: nn.Module = workload.make_net().to(device)
    dataset = workload.dataset(args.steps)
    if args.processes > 1:
        net = DistributedDataParallel(net)
    batch_size = workload.batch_size // args.processes
    optimizer = workload.make_optimizer(net)
    writer = SummaryWriter("runs") if rank == 0 else None
    step = 0
    for epoch in range(NUM_EPOCHS):
        loader = batches(dataset, batch_size, epoch, args.processes)
        start_s = now_s(device)
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            loss = mse_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if writer is not None and step % LOG_EVERY == 0:
                writer.add_scalar("train/loss", loss.item(), step)
                writer.add_scalar("batch_size/global", len(x) * args.processes, step)
        epoch_s = now_s(device) - start_s
    return epoch_s


def plain_rank(rank: int, workload: Workload, args: argparse.Namespace, batches: Batches) -> None:
    """One process of the plain loop."""
    if args.processes > 1:
        dist.init_process_group(
            "nccl" if args.accelerator == "gpu" else "gloo",
            init_method=f"file://{Path('rendezvous').resolve()}",
            rank=rank,
            world_size=args.processes,
        )
    # The wrapped net has ended with the loop: it would end the process group, if it were the last
    # to hold it, in wait for a thread of gloo's that waits for Python.
    epoch_s = plain_loop(rank, workload, args, batches)
    if rank == 0:
        timing.tell(us_per_step=epoch_s / args.steps * 1e6)
    if args.processes > 1:
        dist.destroy_process_group()


def plain(workload: Workload, args: argparse.Namespace, batches: Batches = collated) -> None:
    """A plain PyTorch loop; DistributedDataParallel, a process per rank, where there are two."""
    if args.processes == 1:
        plain_rank(0, workload, args, batches)
    else:
        spawn(plain_rank, (workload, args, batches), nprocs=args.processes)  # type: ignore[no-untyped-call]


class UsualModule(LightningModule):
    """A LightningModule as it is usually written: it logs in every step."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.workload = workload
        self.net = workload.make_net()

    @override
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        loss = mse_loss(self.net(x), y)
        self.log("train/loss", loss, prog_bar=True)
        self.log("batch_size/local", float(len(x)))
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.workload.make_optimizer(self)


def usual_lightning(workload: Workload, args: argparse.Namespace) -> None:
    """Lightning with its default loader, logger, bar and checkpoint."""
    batch_size = workload.batch_size // args.processes
    loader = DataLoader(workload.dataset(args.steps), batch_size, shuffle=True)
    trainer = Trainer(
        accelerator=args.accelerator,
        devices=args.processes,
        strategy="ddp" if args.processes > 1 else "auto",
        max_epochs=NUM_EPOCHS,
        limit_val_batches=0,
        log_every_n_steps=LOG_EVERY,
        callbacks=[StepTimer()],
    )
    trainer.fit(UsualModule(workload), loader)


def hugging_face(workload: Workload, args: argparse.Namespace) -> None:
    """Hugging Face accelerate, in one process."""
    accelerator: Any = importlib.import_module("accelerate").Accelerator(
        cpu=args.accelerator == "cpu", log_with="tensorboard", project_dir="."
    )
    accelerator.init_trackers("runs")
    net: Any = workload.make_net()
    loader: Any = DataLoader(workload.dataset(args.steps), workload.batch_size, shuffle=True)
    optimizer: Any = workload.make_optimizer(net)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    step = 0
    for _ in range(NUM_EPOCHS):
        start_s = now_s(accelerator.device)
        for x, y in loader:
            loss = mse_loss(net(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            if step % LOG_EVERY == 0:
                scalars = {"train/loss": loss.item(), "batch_size/global": len(x)}
                accelerator.log(scalars, step=step)
        epoch_s = now_s(accelerator.device) - start_s
    accelerator.end_training()
    timing.tell(us_per_step=epoch_s / args.steps * 1e6)


PROGRAMS: dict[str, Callable[[Workload, argparse.Namespace], None]] = {
    "plain": plain,
    "plain_whole": partial(plain, batches=whole),
    "plain_sliced": partial(plain, batches=sliced),
    "lightning": usual_lightning,
    "accelerate": hugging_face,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the programs."""
    parser = argparse.ArgumentParser(description="Run one of the peers once.")
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--workload", choices=WORKLOADS, default="tutorial")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    args = parser.parse_args(argv)
    PROGRAMS[args.program](WORKLOADS[args.workload], args)


if __name__ == "__main__":
    main()
