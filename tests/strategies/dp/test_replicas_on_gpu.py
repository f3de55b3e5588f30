"""`dp`'s replicas in threads, two of them on one GPU, which broadcasts to it as to another."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.dp.replicas import Replicas

pytestmark = pytest.mark.gpu


class Writes(nn.Module):
    """Counts its calls in a buffer that it makes anew, and keeps what it has computed."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.lstm = nn.LSTM(3, 2, batch_first=True)
        self.register_buffer("calls", torch.zeros(1))
        self.first = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        self.calls = self.calls + 1
        self.first.data.copy_(x[0, 0])
        self.hidden = self.linear(x)
        return self.hidden, self.lstm(x[:, None])[0]


class Told(TellOnce):
    """Keeps the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __call__(self, line: str, subject: str | None = None) -> None:
        self.lines.append(line)


def test_the_first_replicas_writes_are_kept_and_told() -> None:
    module, told = Writes().to("cuda"), Told()
    replicas = Replicas([torch.device("cuda:0")] * 2, [], told)
    x = torch.randn(4, 3, device="cuda:0")
    for call in range(3):
        first, second = replicas.run(module, [((x[:2],), {}), ((x[2:],), {})], is_new=call == 0)
        assert float(module.calls) == call + 1
        torch.testing.assert_close(module.hidden, module.linear(x[:2]))
        torch.testing.assert_close(torch.cat([first[0], second[0]]), module.linear(x))
        torch.testing.assert_close(torch.cat([first[1], second[1]]), module.lstm(x[:, None])[0])
    (line,) = told.lines
    assert line.startswith("Writes.forward writes hidden, first, of each replica's own samples")
    module.hidden.sum().backward()
    assert module.linear.weight.grad is not None
