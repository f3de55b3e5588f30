"""The Custom Scalars tab: which curves share a chart."""

from lightning_app.telemetry.many_ranks import curve_tags

Chart = list[str | list[str]]


def charts(num_ranks: int) -> dict[str, dict[str, Chart]]:
    """The layout of a run with so many ranks, as `SummaryWriter.add_custom_scalars` takes it."""

    def lines(*tags: str) -> Chart:
        return ["Multiline", [f"^{tag}$" for tag in tags]]  # tags are regular expressions there

    return {
        "Batch split": {
            "samples in a step": lines("batch_size/global", *curve_tags("batch_size", num_ranks)),
        },
        "Loss": {"training and validation": lines("train/loss", "val/loss")},
        "Metrics": {"validation": lines("val/(?!loss).*")},
        "Throughput": {
            "samples per second": lines(
                "throughput/samples_per_s", *curve_tags("throughput", num_ranks)
            ),
            "share of the time spent waiting for data": lines("throughput/data_wait_share"),
        },
        "Coverage": {"samples missed or repeated": lines("coverage/.*")},
    }
