"""The notebook of `examples/` runs in a real kernel."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.command import ROOT

pytestmark = pytest.mark.process


@pytest.mark.timeout(180)
def test_the_notebook_shows_the_same_numbers(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "data_parallel.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = ["".join(o.get("text", "") for o in cell.outputs) for cell in cells]
    _, _, one, dp, ddp, differences = texts
    assert "output_size torch.Size([30, 2])" in one
    for text, layout in ((dp, "2 CPU replicas, dp"), (ddp, "2 CPU processes, ddp")):
        assert f"{layout}, global batch 30 = 15 + 15" in text
        assert "input size torch.Size([5, 5]) output size torch.Size([5, 2])  (rank 1, cpu)" in text
    found = re.findall(r"(dp|ddp): largest difference to one device (\S+)", differences)
    assert [name for name, _ in found] == ["dp", "ddp"]
    assert all(float(difference) < 1e-6 for _, difference in found)
