"""The Custom Scalars tab: one layout for every run, whatever its layout and its metrics.

TensorBoard merges the layouts of all runs: charts that are alike come once. So a chart is made for
names, and not for the tags of a run: those of a metric in training, validation and test share one.
"""

import re
from collections.abc import Iterable

from lightning_app.telemetry.metrics import LOSS, LR

Chart = list[str | list[str]]

FIRST = "at_epoch_end/"  # what matters, by a name that the page sorts first
_OURS = rf"({FIRST[:-1]}|batch_size|workload|coverage)/|epoch$|{LR}|hp_metric$"
_STAGE = r"([tT]rain(ing)?|[vV]al(id(ation)?)?|[tT]est)"
_BEFORE, _AFTER = rf"({_STAGE}[/_.-])?", rf"([/_.-]{_STAGE})?"
_LOADER = r"(/dataloader_idx_\d+)?$"
_OF_STEPS = rf".*_step{_LOADER}"
_METRIC = rf"{_BEFORE}(?P<name>.+?){_AFTER}(_epoch)?{_LOADER}"
# Which tags share a chart, as regular expressions, by its category and its title.
_LOSSES = {
    ("Loss", "each epoch"): rf"(?!{FIRST})(?!{_OF_STEPS})(?={LOSS})",
    ("Loss", "single steps"): rf"(?!{FIRST})(?={_OF_STEPS})(?={LOSS})",
}
_OTHERS = {
    ("Workload", "samples per second"): r"workload/samples_per_s$",
    ("Workload", "share of the time spent waiting for data"): r"workload/data_wait_share$",
    ("Coverage", "samples missed or visited again"): r"coverage/",
}


def charts(tags: Iterable[str]) -> dict[str, dict[str, Chart]]:
    """The charts that have something to show, as `SummaryWriter.add_custom_scalars` takes them.

    Each run has the category of metrics, if empty: the page loses charts of one that the first run
    lacks, and that later runs have in different ways.

    Args:
        tags: What a run has logged, or will log.
    """
    tags = list(tags)
    categories: dict[str, dict[str, Chart]] = {"Loss": {}, "Metrics": {}}
    for (category, title), pattern in (_LOSSES | _of_metrics(tags) | _OTHERS).items():
        if any(re.match(pattern, tag) for tag in tags):
            categories.setdefault(category, {})[title] = ["Multiline", [pattern]]
    return categories


def _of_metrics(tags: Iterable[str]) -> dict[tuple[str, str], str]:
    """A chart for each metric."""
    values = (tag for tag in tags if not re.match(f"{_OURS}|{LOSS}|{_OF_STEPS}", tag))
    names = {match["name"] for tag in values if (match := re.match(_METRIC, tag))}
    return {
        ("Metrics", name): rf"{_BEFORE}{re.escape(name)}{_AFTER}(_epoch)?{_LOADER}"
        for name in sorted(names)
    }
