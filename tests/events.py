"""Reads a run's events with TensorBoard's own reader."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The curves in a folder's event files: `tag → {step: value}`.

    Raises:
        AssertionError: A tag has a step twice, or its steps are not in order.
    """
    reader = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
    curves: dict[str, dict[int, float]] = {}
    for tag in reader.Tags()["scalars"]:
        steps = [event.step for event in reader.Scalars(tag)]
        assert steps == sorted(set(steps)), f"{tag} has steps {steps}"
        curves[tag] = {event.step: event.value for event in reader.Scalars(tag)}
    return curves


def chart_patterns(folder: Path) -> dict[str, str]:
    """Which tags a run's own charts show, by the charts' titles."""
    reader = EventAccumulator(str(folder)).Reload()
    latest = reader.Tensors(metadata.CONFIG_SUMMARY_TAG)[-1]
    layout = layout_pb2.Layout.FromString(latest.tensor_proto.string_val[0])
    charts = (chart for category in layout.category for chart in category.chart)
    return {chart.title: chart.multiline.tag[0] for chart in charts}
