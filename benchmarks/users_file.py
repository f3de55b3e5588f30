"""A user's file under `train.py` and under a plain Trainer: `python -m benchmarks.users_file`.

What people bring (`benchmarks.users_models`): LightningModules that log in each step, and a
DataLoader with torch's own sampler and `collate_fn`. The Trainer has no progress bar. Each
measurement is a fresh process, or two under ddp, where the Trainer's loader has half the batch size
and so as many steps. A first epoch warms up and is dropped.

Not covered: validation and what else happens between epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from benchmarks import timing, users_models
from benchmarks.step_variants import LOG_EVERY, NUM_EPOCHS, StepTimer
from benchmarks.timing import Ratio
from benchmarks.users_models import BATCH_SIZE

TRAINER, OURS, GROUPED = "plain Trainer", "train.py", "train.py, K = 50"


@dataclass(frozen=True)
class File:
    """A file of a user's.

    Attributes:
        title: What it is.
        model: The name of its LightningModule.
        data: The name of its LightningDataModule.
        flags: The model's arguments.
        share: Of the usual number of steps.
        bars: By the number of processes: for one step, and for 50 per execution.
    """

    title: str
    model: str
    data: str
    flags: dict[str, float]
    share: float
    bars: dict[int, tuple[str, str]]


FILES = {
    "usual": File(
        "a usual module, two values logged in each step",
        "Usual",
        "UsualData",
        {},
        1,
        {1: (">= 2", ">= 3.5"), 2: (">= 2", ">= 3")},
    ),
    "silent": File("the same, nothing logged", "Usual", "UsualData", {"logs": False}, 1, {}),
    "cnn": File(
        "a CNN, Adam, OneCycleLR, accuracy", "Cnn", "Images", {}, 1, {1: (">= 1.3", ">= 1.6")}
    ),
    "20ms": File(
        "a usual module, a step of 20 ms",
        "Usual",
        "UsualData",
        {"extra_ms": 20},
        0.1,
        {1: (">= 1.0", "")},
    ),
}


def plain_trainer(file: File, steps: int, processes: int, accelerator: str) -> None:
    """Train as a script does that knows Lightning alone."""
    trainer = Trainer(
        accelerator=accelerator,
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=NUM_EPOCHS,
        log_every_n_steps=LOG_EVERY,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StepTimer()],
    )
    model: LightningModule = getattr(users_models, file.model)(**file.flags)
    data: LightningDataModule = getattr(users_models, file.data)(
        steps * BATCH_SIZE, BATCH_SIZE // processes
    )
    trainer.fit(model, data)


def command(variant: str, name: str, steps: int, processes: int, accelerator: str) -> list[str]:
    """What runs a variant."""
    if variant == TRAINER:
        size = [f"--steps={steps}", f"--processes={processes}", f"--accelerator={accelerator}"]
        return ["-m", "benchmarks.users_file", f"--train={name}", *size]
    file = FILES[name]
    return [
        str(timing.ROOT / "train.py"),
        f"--model=benchmarks.users_models.{file.model}",
        *(f"--model.{flag}={value}" for flag, value in file.flags.items()),
        f"--data=benchmarks.users_models.{file.data}",
        f"--data.num_samples={steps * BATCH_SIZE}",
        f"--accelerator={accelerator}",
        f"--devices={processes}",
        f"--max_epochs={NUM_EPOCHS}",
        f"--log_every_n_steps={LOG_EVERY}",
        f"--steps_per_execution={50 if variant == GROUPED else 1}",
        "--trainer.callbacks+=benchmarks.step_variants.StepTimer",
    ]


def us_per_step(variant: str, *where: Any) -> float:
    """One measurement."""
    return timing.run(*command(variant, *where))["us_per_step"]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = timing.parser(__doc__, rounds=7)
    parser.add_argument("--steps", type=int, default=1000, help="in an epoch")
    parser.add_argument("--processes", default="1,2", help="numbers of processes, with commas")
    parser.add_argument("--files", default=",".join(FILES), help="which, with commas")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--train", choices=FILES, help="only train this one with a plain Trainer")
    args = parser.parse_args(argv)
    if args.train:
        plain_trainer(FILES[args.train], args.steps, int(args.processes), args.accelerator)
        return
    steps, rounds = (60, 1) if args.quick else (args.steps, args.rounds)
    print(timing.machine())
    done = []
    for processes in map(int, args.processes.split(",")):
        for name in args.files.split(","):
            file = FILES[name]
            where = (name, max(int(steps * file.share), 10), processes, args.accelerator)
            variants = {v: partial(us_per_step, v, *where) for v in (TRAINER, OURS, GROUPED)}
            noun = "process" if processes == 1 else "processes"
            title = f"{file.title}, {processes} {noun}, {args.accelerator}"
            one, grouped = file.bars.get(processes, ("", ""))
            ratios = [Ratio(TRAINER, OURS, one), Ratio(TRAINER, GROUPED, grouped)]
            done.append(timing.compare(title, "µs per step", variants, rounds, ratios))
    timing.write(done, args.out, "users_file")


if __name__ == "__main__":
    main()
