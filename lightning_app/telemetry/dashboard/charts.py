"""The Custom Scalars tab: one layout for every run, whatever its layout and its metrics.

TensorBoard merges the layouts of all runs: charts that are alike come once. It colours a chart's
lines by run, so what belongs to training and to validation have charts of their own.
"""

import re
from collections.abc import Iterable

Chart = list[str | list[str]]

FIRST = "at_epoch_end/"  # what matters, by a name that the page sorts first
_OURS = rf"({FIRST[:-1]}|batch_size|workload|coverage)/|epoch$|lr-|hp_metric$"
_LOSS = r".*[lL]oss"
_TRAIN, _VAL, _TEST = r".*[tT]rain", r".*[vV]al", r".*[tT]est"
_TRAINING_LOSS = rf"(?!{FIRST})(?={_LOSS})(?!{_VAL}|{_TEST})"
_METRIC = rf"(?!{_OURS}|{_LOSS})"
# Which tags share a chart, as regular expressions, by its category and its title.
_CHARTS = {
    ("Loss", "training"): rf"(?!.*_step$){_TRAINING_LOSS}",
    ("Loss", "validation"): rf"(?!{FIRST})(?={_LOSS})(?={_VAL})",
    ("Loss", "training, single steps"): rf"(?=.*_step$){_TRAINING_LOSS}",
    ("Metrics", "validation"): rf"{_METRIC}(?={_VAL})",
    ("Metrics", "training"): rf"{_METRIC}(?={_TRAIN})(?!{_VAL})",
    ("Metrics", "others"): rf"{_METRIC}(?!{_TRAIN}|{_VAL})",
    ("Workload", "samples per second"): r"workload/samples_per_s$",
    ("Workload", "share of the time spent waiting for data"): r"workload/data_wait_share$",
    ("Coverage", "samples missed or visited again"): r"coverage/",
}


def charts(tags: Iterable[str]) -> dict[str, dict[str, Chart]]:
    """The charts that have something to show, as `SummaryWriter.add_custom_scalars` takes them.

    Args:
        tags: What a run has logged, or will log.
    """
    tags = list(tags)
    categories: dict[str, dict[str, Chart]] = {}
    for (category, title), pattern in _CHARTS.items():
        if any(re.match(pattern, tag) for tag in tags):
            categories.setdefault(category, {})[title] = ["Multiline", [pattern]]
    return categories
