"""What the seeded order costs beside a stored permutation: `python -m benchmarks.order`.

Every ratio is ours over `torch.randperm`'s, the two timed in turn in one process and one thread.
A stored slice is a view that reads nothing, so its time per sample falls as one over the batch
size while ours levels off at the price of computing an index: the ratio grows with the batch. The
second column also charges the permutation's making to the side that needs one, once an epoch.

Not covered: data loading, which costs far more a sample than either.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from lightning_app.order import SeededOrder

FIRST_BATCH = """
import time, torch
from lightning_app.order import SeededOrder
torch.arange(0)
def peak_kib(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before_kib = peak_kib()
start_s = time.perf_counter()
SeededOrder({length}).indices(epoch=0, start={length} // 2, stop={length} // 2 + {batch_size})
print(time.perf_counter() - start_s, (peak_kib() - before_kib) / 1024)
"""


def best_s(run: Callable[[], object], passes: int = 3) -> float:
    """Seconds of the fastest of a few calls: the slower ones were disturbed."""
    seconds = []
    for _ in range(passes):
        start_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start_s)
    return min(seconds)


def slice_stored(perm: torch.Tensor, batch_size: int) -> None:
    """One epoch of batches, as slices of a stored permutation, shape (length,), int64."""
    for start in range(0, len(perm), batch_size):
        perm[start : start + batch_size]


def slice_seeded(order: SeededOrder, num_samples: int, batch_size: int) -> None:
    """The first `num_samples` of epoch 0, in batches, as slices of the seeded order."""
    for start in range(0, num_samples, batch_size):
        order.indices(0, start, min(start + batch_size, num_samples))


def epoch_ratios(
    length: int, num_samples: int, batch_size: int, repeats: int
) -> tuple[list[float], list[float]]:
    """Times an epoch's batches both ways, in turn.

    Args:
        length: samples in our order.
        num_samples: how many of them are asked for; the length of the stored permutation.
        batch_size: samples a slice.
        repeats: ratios to return.

    Returns:
        Ratios ours / stored, of slicing alone and of making the permutation and slicing it.
    """
    order, perm = SeededOrder(length), torch.randperm(num_samples)
    sliced, made_and_sliced = [], []
    for _ in range(repeats):
        made_s = best_s(lambda: torch.randperm(num_samples))
        stored_s = best_s(lambda: slice_stored(perm, batch_size))
        ours_s = best_s(lambda: slice_seeded(order, num_samples, batch_size))
        sliced.append(ours_s / stored_s)
        made_and_sliced.append(ours_s / (made_s + stored_s))
    return sliced, made_and_sliced


def first_batch(length: int, batch_size: int) -> tuple[float, float]:
    """Milliseconds and MiB of added peak memory to a first batch in a fresh Linux process."""
    code = FIRST_BATCH.format(length=length, batch_size=batch_size)
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, mib = map(float, out.stdout.split())
    return seconds * 1e3, mib


def summary(values: Sequence[float]) -> str:
    """Median and spread in a few characters."""
    return f"{median(values):6.2f} ({min(values):.2f}-{max(values):.2f})"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lengths", type=int, nargs="+", default=[10**6, 2**20 + 1, 10**9])
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[30, 100, 300, 1000])
    parser.add_argument("--num_samples", type=int, default=10**6)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    print(f"{platform.machine()} CPU, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"median of {args.repeats} (lowest-highest); ratio: ours / torch.randperm, one epoch")
    print(f"{'length':>13} {'batch':>6}  {'slicing':22} {'making and slicing':22}")
    for length in args.lengths:
        num_samples = min(length, args.num_samples)
        for batch_size in args.batch_sizes:
            sliced, made = epoch_ratios(length, num_samples, batch_size, args.repeats)
            print(f"{length:13,} {batch_size:6}  {summary(sliced):22} {summary(made):22}")
    for length in args.lengths:
        runs = [first_batch(length, args.batch_sizes[0]) for _ in range(args.repeats)]
        ms, mib = zip(*runs, strict=True)
        print(f"{length:13,} first batch: {summary(ms)} ms, {summary(mib)} MiB more at peak")


if __name__ == "__main__":
    main()
