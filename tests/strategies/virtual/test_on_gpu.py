"""Virtual ranks on a GPU: the same bits after a stop, and on two ranks that share it."""

import os
from pathlib import Path

import pytest

from lightning_app.strategies.virtual import VirtualDDPStrategy
from tests.ranks import run_ranks
from tests.strategies.virtual.cases import CASES, Ended, V, train

pytestmark = pytest.mark.gpu


def one_of_two(name: str) -> Ended:
    """What a rank ends with that has a host of its own, and the same GPU as the other."""
    os.environ |= {"LOCAL_RANK": "0", "GROUP_RANK": os.environ["RANK"], "LOCAL_WORLD_SIZE": "1"}
    strategy = VirtualDDPStrategy(virtual_ranks=V, process_group_backend="gloo")
    return train(name, strategy=strategy, accelerator="gpu", num_nodes=2)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = train(name, accelerator="gpu")
    stop = (2, str(tmp_path / "stopped"))
    train(name, stop=stop, accelerator="gpu")
    continued = train(name, path=stop[1], accelerator="gpu")
    assert continued.sha256 == whole.sha256
    for ended in run_ranks(one_of_two, 2, name, timeout_s=200):
        assert ended.sha256 == whole.sha256
        for tag, curve in ended.curves.items():
            assert curve == whole.curves[tag], tag


def test_a_users_matrices_before_the_run(tmp_path: Path) -> None:
    from tests.train_to_end import train as train_py

    (tmp_path / "mine.py").write_text(MATRICES)
    flags = ("--accelerator", "gpu", "--virtual_ranks", "4", "--max_epochs", "1")
    mine = ("--model", "mine.Model", "--data", "mine.Data")
    outcome = train_py(*flags, *mine, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert outcome.status == 0, outcome.stderr


MATRICES = """
import lightning as L, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 1)

    def training_step(self, batch):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Data(L.LightningDataModule):
    def setup(self, stage):
        x = torch.randn(64, 8, device="cuda") @ torch.eye(8, device="cuda")
        self.samples = TensorDataset(x.cpu(), x.sum(1, keepdim=True).cpu())

    def train_dataloader(self):
        return DataLoader(self.samples, batch_size=8)
"""
