"""What it takes to start, take one step and end: `python -m benchmarks.startup`.

The wall time of a whole process, from before Python starts: `train.py --fast_dev_run` over that of
a minimal Lightning script, on the CPU, in one process and in two under ddp.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks import timing
from benchmarks.timing import Ratio

OURS, MINIMAL = "train.py --fast_dev_run", "minimal Lightning script"


def wall_s(*argv: str) -> float:
    """Seconds from a process's start to its end."""
    return timing.run(*argv, CUDA_VISIBLE_DEVICES="")["wall_s"]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    args = timing.parser(__doc__, rounds=9).parse_args(argv)
    print(timing.machine())
    rounds = 1 if args.quick else args.rounds
    done = []
    for processes in (1,) if args.quick else (1, 2):
        flags = [f"--devices={processes}", "--strategy=ddp"] if processes > 1 else []
        script = str(timing.ROOT / "benchmarks" / "minimal.py")
        variants = {
            MINIMAL: partial(wall_s, script, *flags),
            OURS: partial(wall_s, str(timing.ROOT / "train.py"), "--fast_dev_run", *flags),
        }
        if not args.quick:  # neither pays for files that were not read before
            for variant in variants.values():
                variant()
        noun = "process" if processes == 1 else "processes"
        ratios = [Ratio(OURS, MINIMAL, "<= 1.05")]
        done.append(timing.compare(f"Start-up, {processes} {noun}", "s", variants, rounds, ratios))
    timing.write(done, args.out, "startup")


if __name__ == "__main__":
    main()
