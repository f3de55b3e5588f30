"""What an epoch's batches cost without a model: `python -m benchmarks.loader`.

The training loader of `RandomDataModule`, as a strategy hands it to one rank, over a DataLoader
with PyTorch's defaults (sample by sample, collated) on the same data set. Then such a DataLoader as
a user brings it, likewise, without workers and with two that stay. All shuffle.
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
from torch.utils.data import DataLoader

from benchmarks import timing
from benchmarks.timing import Ratio
from lightning_app.data import RandomDataModule
from lightning_app.strategies.loaders.loader import shard_loader

OURS, DEFAULTS = "this project", "DataLoader defaults"
HANDED, USERS = "as handed to a rank", "the user's DataLoader"


def us_per_batch(loader: Iterable[object], num_batches: int) -> float:
    """Microseconds per batch of an epoch."""
    start_s = time.perf_counter()
    count = sum(1 for _ in loader)
    epoch_s = time.perf_counter() - start_s
    assert count == num_batches
    return epoch_s / num_batches * 1e6


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = timing.parser(__doc__, rounds=15)
    parser.add_argument("--num_batches", type=int, default=2000, help="in an epoch")
    parser.add_argument("--batch_size", type=int, default=30)
    args = parser.parse_args(argv)
    num_batches, rounds = (50, 2) if args.quick else (args.num_batches, args.rounds)

    torch.set_num_threads(1)
    data = RandomDataModule(length=num_batches * args.batch_size, batch_size=args.batch_size)
    data.setup("fit")
    loaders: dict[str, Iterable[object]] = {
        DEFAULTS: DataLoader(data.train, args.batch_size, shuffle=True),
        OURS: cast(Iterable[object], shard_loader(data.train_dataloader())),
    }
    variants = {name: partial(us_per_batch, own, num_batches) for name, own in loaders.items()}
    print(timing.machine())
    ratios = [Ratio(OURS, DEFAULTS, "<= 0.2")]
    title = f"Loader only: {num_batches} batches of {args.batch_size}"
    done = [timing.compare(title, "µs per batch", variants, rounds, ratios)]
    for workers in (0, 2):
        users = partial(
            DataLoader,
            data.train,
            args.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        loaders = {USERS: users(), HANDED: cast(Iterable[object], shard_loader(users()))}
        variants = {name: partial(us_per_batch, own, num_batches) for name, own in loaders.items()}
        for variant in variants.values():
            variant()  # which starts the workers
        title, ratios = f"A user's loader, {workers} workers", [Ratio(HANDED, USERS, "<= 1.0")]
        done.append(timing.compare(title, "µs per batch", variants, rounds, ratios))
    timing.write(done, args.out, "loader")


if __name__ == "__main__":
    main()
