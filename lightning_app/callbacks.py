"""What a run has beside the user's own callbacks, in the order that it needs."""

from lightning.pytorch import Callback

from lightning_app.checkpoint.best import BestCheckpoint, Mode
from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.finite import Choice
from lightning_app.checkpoint.resume import Resume
from lightning_app.checkpoint.stops import AgreedStop
from lightning_app.speed.compile import CompiledForward
from lightning_app.speed.data_on_device import DataOnDevice
from lightning_app.speed.direct_step import DirectStep
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.telemetry.console import Console
from lightning_app.telemetry.coverage import Coverage
from lightning_app.telemetry.dashboard import Dashboard, Throughput
from lightning_app.telemetry.loss import LossLogger
from lightning_app.telemetry.predictions import PredictionWriter
from lightning_app.telemetry.shapes import LogShapes, ShapeLogger
from lightning_app.telemetry.surroundings import Surroundings


def callbacks(
    *,
    compile_modules: bool = False,
    data_on_device: bool = False,
    plain_steps: bool = False,
    steps_per_execution: int = 1,
    on_nonfinite_loss: Choice = "stop",
    predictions: bool = False,
    checkpoints: bool = True,
    save_every_s: float | None = None,
    monitor: str | None = None,
    mode: Mode | None = None,
    log_shapes: LogShapes | None = None,
    requeue: bool = False,
) -> list[Callback]:
    """The callbacks that `train.py` adds to a Trainer's, in the order in which they are called.

    What gives something comes before what takes it: the step before the group of steps, sizes
    before charts, the loss and the coverage before the line that shows them, what is put into a
    checkpoint before what saves it. Lightning itself calls those that save after all others.

    Args:
        compile_modules: `--compile`.
        data_on_device: `--data_on_device`.
        plain_steps: `--plain_steps`.
        steps_per_execution: `--steps_per_execution`.
        on_nonfinite_loss: `--on_nonfinite_loss`.
        predictions: Write what is predicted to `predictions.pt`.
        checkpoints: Save `last.ckpt` and the best one.
        save_every_s: `--save_every_s`.
        monitor: `--monitor`.
        mode: `--mode`.
        log_shapes: `--log_shapes`.
        requeue: `--requeue`.
    """
    shapes = ShapeLogger(log_shapes)
    found: list[Callback] = []
    if compile_modules:
        found.append(CompiledForward())
    if data_on_device:
        found.append(DataOnDevice())
    if not plain_steps:
        found.append(DirectStep())
    if steps_per_execution > 1:
        found.append(StepsPerExecution(steps_per_execution))
    found += [shapes, LossLogger(on_nonfinite_loss), Coverage(), Throughput(shapes)]
    found.append(Dashboard(shapes))
    if predictions:
        found.append(PredictionWriter())
    found += [Surroundings(), Resume(), AgreedStop()]
    if checkpoints:
        last = LastCheckpoint(save_every_s, on_nonfinite_loss, requeue)
        found += [BestCheckpoint(monitor, mode), last]
    return [*found, Console()]  # its first line comes after what else is told of the start
