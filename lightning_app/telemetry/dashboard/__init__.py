"""What a run writes to TensorBoard, laid out so that its dashboard answers at a glance."""

from lightning_app.telemetry.dashboard.callback import Dashboard
from lightning_app.telemetry.dashboard.logger import (
    RunLogger,
    discard_empty_run,
    leave_no_empty_run,
)
from lightning_app.telemetry.dashboard.throughput import Throughput

__all__ = ["Dashboard", "RunLogger", "Throughput", "discard_empty_run", "leave_no_empty_run"]
