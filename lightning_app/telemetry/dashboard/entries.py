"""What the page shows besides curves: text, a row of the table of runs, the graph, pictures.

Imported where the first of them is written: TensorBoard's messages take long to import, and most
ranks, and runs without a page, write none.
"""

from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.versions_pb2 import VersionDef
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard._proto_graph import node_proto
from torch.utils.tensorboard.summary import hparams, text
from torch.utils.tensorboard.writer import SummaryWriter

from lightning_app.telemetry.dashboard.graph import INPUT, Node
from lightning_app.telemetry.dashboard.pictures import who_got_what

MAX_OPEN = 40  # modules that are shown at once


def add_text(writer: SummaryWriter, tag: str, words: str, step: int) -> None:
    """As the writer's own, which would add `/text_summary` to what the page calls it."""
    summary = text(tag, words)  # type: ignore[no-untyped-call]
    summary.value[0].tag = tag
    writer._get_file_writer().add_summary(summary, step)  # type: ignore[no-untyped-call]


def add_picture(writer: SummaryWriter, splits: Mapping[tuple[int, ...], int], step: int) -> None:
    """Draw how batches were split: each split's number of samples by rank, and its steps."""
    writer.add_image("who_got_what", who_got_what(splits), step, dataformats="HWC")


def add_run(writer: SummaryWriter, name: str, params: dict[str, Any]) -> None:
    """Enter a run in the table of hyperparameters.

    The table's columns are left to TensorBoard, which then takes those of all runs; of layouts
    of columns that runs bring it would take one, whatever the others have logged.

    Args:
        writer: Of the run.
        name: What the table calls it.
        params: Its hyperparameters: numbers, truth values and text.
    """
    _, *summaries = hparams(params, {})  # type: ignore[no-untyped-call]
    for summary in summaries:
        data = HParamsPluginData.FromString(summary.value[0].metadata.plugin_data.content)
        if data.HasField("session_start_info"):
            data.session_start_info.group_name = name
            summary.value[0].metadata.plugin_data.content = data.SerializeToString()
        writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]


def add_graph(writer: SummaryWriter, nodes: dict[str, Node]) -> None:
    """Show a graph, of nodes by the modules' names, with dots."""
    writer._get_file_writer().add_event(graph_event(nodes))  # type: ignore[no-untyped-call]


def graph_event(nodes: dict[str, Node]) -> Event:
    """The event that shows a graph in TensorBoard.

    The page folds what has a `/` in its name into boxes, of which only the outermost are open: a
    net that can be taken in at once has names with dots.

    Args:
        nodes: By the modules' names, with dots.
    """
    is_large = len(nodes) > MAX_OPEN

    def place(name: str) -> str:
        return name.replace(".", "/") if is_large else name

    graph = GraphDef(versions=VersionDef(producer=22))
    graph.node.append(node_proto(INPUT, op="IO Node"))
    for name, (kind, sources, shape) in nodes.items():
        taken = [place(source) for source in sources]
        graph.node.append(node_proto(place(name), op=kind, input=taken, outputsize=shape))
    return Event(graph_def=graph.SerializeToString())
