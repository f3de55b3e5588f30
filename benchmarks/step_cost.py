"""What a step costs beside the alternatives: `python -m benchmarks.step_cost`.

In turn, each run in a process of its own: (a) a plain PyTorch loop, (b) the usual Lightning way,
(c) Hugging Face accelerate where it is installed, (d) this project with its defaults, (e) the same
with `--steps_per_execution 50`; in one process, and in two over gloo. CPU only so far.
"""

import argparse
import importlib.util
from pathlib import Path

from benchmarks.timing import Figures, in_turn, machine, report, write_csv

RATIOS = [("b", "d"), ("b", "e"), ("a", "d"), ("a", "e")]


def commands(steps: int, processes: int) -> dict[str, list[str]]:
    """The variants, by their letters, as arguments of `python`."""
    module = ["-m", "benchmarks.variants"]
    sizes = ["--steps", str(steps), "--processes", str(processes)]
    launch = module
    if processes > 1:
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
            *module,
        ]
    found = {
        "a": [*launch, "plain", *sizes],
        "b": [*module, "usual", *sizes],
        "c": [*launch, "accelerate", *sizes],
        "d": [*module, "ours", *sizes],
        "e": [*module, "ours", *sizes, "--steps_per_execution", "50"],
    }
    if importlib.util.find_spec("accelerate") is None:
        del found["c"]
    return found


def plot(figures: dict[int, Figures], path: Path) -> None:
    """A bar for each variant's median, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    from statistics import median

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3))
    for axes, (processes, values) in zip(
        figure.subplots(1, len(figures), squeeze=False)[0], figures.items(), strict=True
    ):
        axes.barh(list(values)[::-1], [median(v) for v in values.values()][::-1])
        axes.set(title=f"{processes} process(es)", xlabel="µs a step")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Time, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="in an epoch; three are run")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    print(machine())
    figures = {}
    for processes in args.processes:
        figures[processes] = in_turn(commands(args.steps, processes), args.rounds)
        title = f"{processes} process{'es' if processes > 1 else ''}"
        print(report(title, figures[processes], RATIOS, "µs a step"), flush=True)
        write_csv(args.out / f"step_cost_{processes}.csv", figures[processes])
    plot(figures, args.out / "step_cost.png")


if __name__ == "__main__":
    main()
