"""What a training step costs, here and elsewhere: `python -m benchmarks.step_cost`.

The same workload with the same telemetry: (a) a plain PyTorch loop, (a') one that fetches whole
batches, (a'') in one process, one without a DataLoader, (b) the usual Lightning way,
(c) Hugging Face accelerate, (d) this project's `train.py`, (e) the same with 50 steps per
execution, (e') and with its data on the device, (e'') and, on GPUs, with its model compiled. Each
measurement is a fresh process (or two, under ddp); a first epoch warms up and is dropped.
`benchmarks.step_variants` has the peers' programs.

Not covered: validation, checkpoints and what else happens between epochs.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks import timing
from benchmarks.step_variants import LOG_EVERY, NUM_EPOCHS, WORKLOADS
from benchmarks.timing import Ratio

PLAIN, USUAL, PEER = "a plain loop", "b usual Lightning", "c accelerate"
WHOLE, SLICED = "a' whole batches", "a'' slices"
OURS, GROUPED = "d train.py", "e train.py, K = 50"
WITH_BAR = "d' train.py, bar on"
HELD, COMPILED = "e' data on device", "e'' compiled, too"
BARS = {
    1: {
        (USUAL, OURS): ">= 3",
        (USUAL, GROUPED): ">= 7",
        (PLAIN, GROUPED): ">= 1.0",
        (PLAIN, OURS): "",
        (WHOLE, GROUPED): ">= 1.0",
        (SLICED, GROUPED): ">= 0.9",
    },
    2: {
        (USUAL, OURS): ">= 2",
        (USUAL, GROUPED): ">= 3",
        (PLAIN, GROUPED): ">= 1.0",
        (PLAIN, OURS): ">= 0.65",
        (WHOLE, GROUPED): ">= 1.5",
    },
}


def ratios(num_processes: int, has_bars: bool) -> list[Ratio]:
    """Those that the project has set itself a bar for, on the small workload and two CPU cores."""
    bars = BARS.get(num_processes, BARS[1])
    has_bars = has_bars and num_processes in BARS
    return [Ratio(*pair, bar if has_bars else "") for pair, bar in bars.items()]


def us_per_step(*argv: str) -> float:
    """One measurement: of a process that tells it."""
    return timing.run(*argv)["us_per_step"]


def peer(program: str, workload: str, steps: int, processes: int, accelerator: str) -> list[str]:
    """The command that runs one of the peers."""
    sizes = [f"--steps={steps}", f"--processes={processes}", f"--accelerator={accelerator}"]
    return ["-m", "benchmarks.step_variants", program, f"--workload={workload}", *sizes]


def ours(workload: str, steps: int, processes: int, accelerator: str) -> list[str]:
    """The command that runs this project, as its users do."""
    flags = [f"--config={timing.ROOT}/configs/wide.yaml"] if workload == "wide" else []
    if processes > 1:
        flags.append("--strategy=ddp")
    return [
        str(timing.ROOT / "train.py"),
        *flags,
        f"--accelerator={accelerator}",
        f"--devices={processes}",
        f"--max_epochs={NUM_EPOCHS}",
        f"--log_every_n_steps={LOG_EVERY}",
        "--limit_val_batches=0",
        f"--data.length={steps * WORKLOADS[workload].batch_size}",
        "--trainer.callbacks+=benchmarks.step_variants.StepTimer",
    ]


def why_not_accelerate(processes: int, accelerator: str) -> str:
    """Why accelerate is left out; nothing if it is not."""
    if processes > 1 or accelerator == "gpu":
        return "timed in one CPU process only"
    try:
        importlib.import_module("accelerate").Accelerator  # noqa: B018 - it may lack a dependency
    except ImportError as error:
        return str(error)
    return ""


def compare(
    workload: str, steps: int, processes: int, accelerator: str, rounds: int
) -> timing.Comparison:
    """Time all variants on one layout."""
    where = (workload, steps, processes, accelerator)
    commands = {
        PLAIN: peer("plain", *where),
        WHOLE: peer("plain_whole", *where),
        SLICED: peer("plain_sliced", *where),
        USUAL: peer("lightning", *where),
        PEER: peer("accelerate", *where),
        OURS: ours(*where),
        WITH_BAR: [*ours(*where), "--enable_progress_bar=true"],
        GROUPED: [*ours(*where), "--steps_per_execution=50"],
    }
    commands[HELD] = [*commands[GROUPED], "--data_on_device"]
    if accelerator == "gpu":
        commands[COMPILED] = [*commands[HELD], "--compile"]
    skipped = {}
    if processes > 1:
        skipped[SLICED] = "one process only"
    if why := why_not_accelerate(processes, accelerator):
        skipped[PEER] = why
    variants: dict[str, Callable[[], float]] = {
        name: partial(us_per_step, *command)
        for name, command in commands.items()
        if name not in skipped
    }
    noun = "process" if processes == 1 else "processes"
    title = f"{workload}, {processes} {noun}, {accelerator}"
    has_bars = workload == "tutorial" and accelerator == "cpu"
    told = ratios(processes, has_bars)
    return timing.compare(title, "µs per step", variants, rounds, told, skipped)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = timing.parser(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, help="in an epoch; 2000, or 4 with --wide")
    parser.add_argument("--processes", default="1,2", help="numbers of processes, with commas")
    parser.add_argument("--accelerators", help="cpu, gpu, with a comma; all that there are")
    parser.add_argument("--wide", action="store_true", help="the sizes of configs/wide.yaml")
    args = parser.parse_args(argv)

    steps = args.steps or (4 if args.wide else 2000)
    rounds = args.rounds
    if args.quick:
        steps, rounds = min(steps, 60), 1
    print(timing.machine())
    print(f"median of {rounds} rounds, each variant once a round; {steps} steps an epoch")
    workload = "wide" if args.wide else "tutorial"
    done = []
    there = "cpu,gpu" if torch.cuda.is_available() else "cpu"
    for accelerator in (args.accelerators or there).split(","):
        for processes in map(int, args.processes.split(",")):
            if accelerator == "gpu" and processes > torch.cuda.device_count():
                print(f"\n{workload}, {processes} GPUs: skipped, there are fewer")
                continue
            done.append(compare(workload, steps, processes, accelerator, rounds))
    timing.write(done, args.out, "wide_step_cost" if args.wide else "step_cost")


if __name__ == "__main__":
    main()
