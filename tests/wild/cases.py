"""All cases, by their names."""

from collections.abc import Mapping
from dataclasses import replace

from tests.wild import cases_of_data, cases_of_habits, cases_of_models, cases_of_runs
from tests.wild.case import Case

# Of modules and logs, those with more of a state than weights; the others' stops show the same.
STOPPED = {
    *("autoencoder", "GAN", "transformer", "image classifier"),
    *("BatchNorm", "frozen BatchNorm", "BatchNorm frozen once", "forward counts its calls"),
    *("logs every seventh step", "epoch means over a stop", "metrics over a stop", "MetricTracker"),
    *("manual optimization", "unfreezes a layer", "freezes a layer", "finetuning schedule"),
    *("examples, digits", "examples, text", "examples, GAN"),
    *("a tensor class of its own", "token means", "on_train_batch_start returns -1", "LBFGS"),
}
# Of loaders and batches, those where shards of nothing, or of three sizes, tell more.
THREE_RANKS = {
    *("plain", "bucketing", "sampler counts passes", "batch sampler is a list", "whole batches"),
    *("max_size_cycle", "graphs", "lists of images", "flattens, batch size 1"),
    *("looks at the first sample", "0-dim tensor and strings", "packed sequences"),
    *("attention with a mask", "collate drops, and says so", "stream"),
    "padded, to predict, a sample a process",
}


def _without(cases: Mapping[str, Case], *layouts: str, but: set[str]) -> dict[str, Case]:
    return {
        name: case if name in but else replace(case, leave_out=(*case.leave_out, *layouts))
        for name, case in cases.items()
    }


CASES: dict[str, Case] = {
    **_without(cases_of_data.CASES, "ddp3", but=THREE_RANKS),
    **_without(cases_of_models.CASES, "stopped", but=STOPPED),
    **cases_of_habits.CASES,
    # Of callbacks, loggers and schedules, replicas and a third rank show nothing more.
    **_without(cases_of_runs.CASES, "dp2", "ddp3", but={"every hook"}),
}
