"""Runs one case in this process, and keeps what it ended with and what the user's code saw."""

import contextlib
import functools
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from torch import Tensor

from tests.wild.case import PLAIN, PLAIN_ON_GPU, Case
from tests.wild.tracing import traced

Curves = dict[str, dict[int, float]]


@dataclass
class Result:
    """How a run on one rank ended.

    Attributes:
        status: The exit status; `None` after an error that is no `SystemExit`.
        error: That error's traceback.
        stderr: What was printed there.
        curves: What was logged, `tag → {step: value}`; `repeated` has what was logged again.
        metrics: `callback_metrics`.
        facts: Numbers of the Trainer and of its callbacks.
    """

    status: int | None = None
    error: str = ""
    stderr: str = ""
    curves: Curves = field(default_factory=dict)
    repeated: list[tuple[str, int]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    modes: dict[str, tuple[bool, bool | None]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)


class StopAt(Callback):
    """Tells the own process to stop, as a scheduler of a cluster does."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_train_batch_start(self, *args: Any) -> None:
        """Count."""
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        self.left -= 1


def run(case: Case, layout: str, folder: Path) -> Result:
    """Run a case, in a folder, as one of the ranks that the environment tells of."""
    result = Result()
    rank = int(os.environ.get("RANK", "0"))
    folder.mkdir(parents=True, exist_ok=True)
    outputs = folder / f"rank_{rank}.out", folder / f"rank_{rank}.err"
    with _inside(folder), _printing_to(*outputs), _watching(case, layout, result) as stopping:
        try:
            if layout in (PLAIN, PLAIN_ON_GPU):
                _run_plain(case.config("one" if layout == PLAIN else "gpu"), case)
            else:
                _run_command(case, layout, stopping)
            result.status = 0
        except SystemExit as exit_:
            result.status = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException:
            result.error = traceback.format_exc()
    result.stderr = outputs[1].read_text()
    return result


def _run_plain(config: dict[str, Any], case: Case) -> None:
    flags = config["trainer"]
    for name in ("callbacks", "logger"):
        if isinstance(flags.get(name), (list, dict)):
            flags[name] = _made(flags[name])
    bars = [c for c in flags.get("callbacks", []) if isinstance(c, ProgressBar)]
    seed_everything(42)
    data = _made(config["data"]) if case.data else None
    model = _made(config["model"])
    quiet = {"enable_progress_bar": bool(bars), "enable_model_summary": False}
    trainer = Trainer(**{**quiet, "enable_checkpointing": _makes_checkpoints(case), **flags})
    getattr(trainer, case.subcommand)(model, datamodule=data)


def _makes_checkpoints(case: Case) -> bool:
    return any("Checkpoint" in spec["class_path"] for spec in case.flags.get("callbacks", []))


def _run_command(case: Case, layout: str, stopping: list[StopAt]) -> None:
    from lightning_app.cli import main

    own = Path(f"run.{os.getpid()}.yaml")
    own.write_text(yaml.safe_dump(case.config(layout)))
    own.replace("run.yaml")  # whole at any time: other ranks of the run read and write it, too
    command = ["train.py", *([] if case.subcommand == "fit" else [case.subcommand])]
    sys.argv = [*command, "--config", "run.yaml"]
    if layout.endswith("stopped"):
        stopping.append(StopAt(case.stop_at))
        try:
            main()
        except SystemExit as exit_:
            if exit_.code != 128 + signal.SIGTERM:
                raise
        else:
            raise AssertionError("it ended before it was told to stop")
        stopping.clear()
        sys.argv += ["--ckpt_path", "last"]
    main()


def _made(spec: Any) -> Any:
    """What a config file names."""
    if isinstance(spec, list):
        return [_made(one) for one in spec]
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**spec["init_args"])


@contextlib.contextmanager
def _watching(case: Case, layout: str, result: Result) -> Iterator[list[StopAt]]:
    """Keep what the Trainer's next runs end with, and note the calls of the user's hooks."""
    seen: list[tuple[Trainer, LightningModule]] = []
    stopping: list[StopAt] = []
    entries = {name: getattr(Trainer, name) for name in ("fit", "validate", "test", "predict")}

    def watched(entry: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(entry)  # the command line reads its signature
        def call(trainer: Trainer, model: LightningModule, *args: Any, **kwargs: Any) -> Any:
            seen.append((trainer, model))
            trainer.callbacks += stopping  # type: ignore[attr-defined]
            earlier = {(tag, step) for tag, curve in result.curves.items() for step in curve}
            for logger in trainer.loggers:
                _record(logger, result, earlier)
            return entry(trainer, model, *args, **kwargs)

        return call

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with warnings.catch_warnings(), traced(result.trace):
        warnings.simplefilter("ignore")
        for name, entry in entries.items():
            setattr(Trainer, name, watched(entry))
        try:
            yield stopping
        finally:
            for name, entry in entries.items():
                setattr(Trainer, name, entry)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if seen:
        _keep(*seen[-1], result)


def _record(logger: Any, result: Result, earlier: set[tuple[str, int]]) -> None:
    log_metrics = logger.log_metrics
    points = set(earlier)

    def recorded(metrics: Any, step: int | None = None) -> None:
        for tag, value in metrics.items():
            if not isinstance(value, dict):
                point = tag, step or 0
                if tag != "epoch" and point in points:
                    result.repeated.append(point)
                points.add(point)
                result.curves.setdefault(tag, {})[step or 0] = float(value)
        log_metrics(metrics, step)

    logger.log_metrics = recorded


def _keep(trainer: Trainer, model: LightningModule, result: Result) -> None:
    result.metrics = {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    result.weights = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
    result.modes = {
        name: (module.training, next((p.requires_grad for p in module.parameters()), None))
        for name, module in model.named_modules()
    }
    result.facts = {"step": trainer.global_step, "epoch": trainer.current_epoch}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if type(callback) is ModelCheckpoint and callback.monitor:
            score = callback.best_model_score
            result.facts["best"] = None if score is None else float(score)
            result.facts["best file"] = Path(callback.best_model_path).name
        if type(callback) is EarlyStopping:
            result.facts["stopped"] = (callback.stopped_epoch, float(callback.best_score))


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        if "PL_GLOBAL_SEED" in os.environ:
            del os.environ["PL_GLOBAL_SEED"]


@contextlib.contextmanager
def _printing_to(stdout: Path, stderr: Path) -> Iterator[None]:
    """Send what this process prints, on the file descriptors as well, to files."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with stdout.open("w") as out, stderr.open("w") as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)


torch.set_num_threads(1)  # two cores are shared by all ranks
