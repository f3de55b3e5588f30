"""What a data set's length costs before the first batch: `python -m benchmarks.scaling`.

Time to a shuffled loader's first batch, and the memory that takes at its peak, in a fresh process:
this project's loader beside a DataLoader with PyTorch's defaults, on samples that take no memory
of their own; and the seeded order alone, to a billion samples. Linux only, where a process can
be asked for its peak.

Not covered: the samples themselves, and the four bytes per sample and rank in which `Coverage`
counts.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import timing
from benchmarks.order import first_batch
from lightning_app.data import SeededBatches
from lightning_app.strategies.loaders.loader import shard_loader

OURS, DEFAULTS = "this project", "DataLoader defaults"
BATCH_SIZE = 30
MS, MIB = "ms to first batch", "MiB more at peak"


def peak_mib() -> float:
    """This process's peak of memory so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def one_loader(program: str, length: int) -> None:
    """Take a loader's first batch, and tell what that took."""
    samples = TensorDataset(torch.zeros(1, 5).expand(length, 5))  # (N, 5), one row of memory
    next(iter(DataLoader(samples, BATCH_SIZE)))  # what any first batch costs
    before_mib, start_s = peak_mib(), time.perf_counter()
    if program == OURS:
        plain = DataLoader(samples, sampler=SeededBatches(length, BATCH_SIZE), batch_size=None)
        next(iter(cast(Iterable[object], shard_loader(plain))))
    else:
        next(iter(DataLoader(samples, BATCH_SIZE, shuffle=True)))
    first_s = time.perf_counter() - start_s
    timing.tell(ms=first_s * 1e3, mib=peak_mib() - before_mib)


def measure_loader(program: str, length: int) -> tuple[float, float]:
    """Milliseconds and MiB of a loader's first batch, in a fresh process."""
    argv = ("-m", "benchmarks.scaling", f"--program={program}", f"--lengths={length}")
    figures = timing.run(*argv)
    return figures["ms"], figures["mib"]


def compare(
    title: str, variants: Mapping[str, Callable[[], tuple[float, float]]], rounds: int
) -> list[timing.Comparison]:
    """Two tables, of time and of memory, from the same processes."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            found[name].append(variant())
    tables = []
    for i, unit in enumerate((MS, MIB)):
        values = {name: [pair[i] for pair in pairs] for name, pairs in found.items()}
        tables.append(timing.Comparison(f"{title}: {unit}", unit, values))
        print(tables[-1], flush=True)
    return tables


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = timing.parser(__doc__, rounds=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[10**n for n in (4, 5, 6, 7)])
    parser.add_argument("--order_lengths", type=int, nargs="+", default=[10**n for n in (4, 7, 9)])
    parser.add_argument("--program", choices=(OURS, DEFAULTS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.program:
        one_loader(args.program, args.lengths[0])
        return
    if platform.system() != "Linux":
        sys.exit("benchmarks.scaling reads /proc, which only Linux has")

    if args.quick:
        args.lengths, args.order_lengths, args.rounds = [10**3], [10**9], 1
    print(timing.machine())
    loaders = {
        f"{name}, {length:,}": partial(measure_loader, name, length)
        for name in (OURS, DEFAULTS)
        for length in args.lengths
    }
    orders = {
        f"order, {length:,}": partial(first_batch, length, BATCH_SIZE)
        for length in args.order_lengths
    }
    done = compare("First batch of a loader", loaders, args.rounds)
    done += compare("First batch of the order alone (bar: <= 50 ms, <= 64 MB)", orders, args.rounds)
    timing.write(done, args.out, "scaling")


if __name__ == "__main__":
    main()
