"""What `dp` splits: what has a row for each sample; all else runs in one piece, and is told."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_app.strategies import DataParallelStrategy
from tests.strategies.one_step import (
    B,
    Call,
    Step,
    assert_as_on_one_device,
    run_step,
    sizes_seen,
    x,
)

MAKES_ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "scaled": lambda x: 2 - x / 255,
    "copied": lambda x: x.float().to(torch.float64).clone().detach(),
    "viewed": lambda x: x.view(x.size(0), -1)[:, :B].unsqueeze(1)[:, 0],
    "noise added": lambda x: x + 0.1 * torch.ones_like(x),
    "mixed up": lambda x: 0.7 * x + 0.3 * x[torch.arange(B - 1, -1, -1)],
    "in place": lambda x: x.clone().mul_(2).sub_(1),
    "normalized": lambda x: (x - x.mean(0)) / x.std(0),
    "through a module": lambda x: x,
}


@pytest.mark.parametrize("name", MAKES_ROWS)
@pytest.mark.parametrize("width", [B, 4])
def test_what_is_made_of_the_batch_row_by_row_is_split(
    name: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Call(lambda net, y: net(y), nn.Linear(min(width, B), 3))
    sizes = sizes_seen(module.parts)
    batch = x(B, width)
    assert_as_on_one_device(module, lambda m, b: m(MAKES_ROWS[name](b)), batch)
    run_step(module.double(), lambda m, b: m(MAKES_ROWS[name](b)), batch, 2)
    assert sizes[-2:] == [(B // 2, width)] * 2
    assert not capsys.readouterr().err


def classes(y: Tensor, features: Tensor) -> Tensor:
    """A mean for each of as many classes as samples."""
    return torch.zeros(B, features.shape[1]).double().index_add(0, y, features)


def attention(query: Tensor, keys: Tensor) -> Tensor:
    return (query @ keys.mT).softmax(-1) @ keys


def around(net: nn.Module, x: Tensor, other: Tensor) -> Tensor:
    return attention(net(x), net(other))


nested = torch.nested.as_nested_tensor


def unnested(net: nn.Module, x: Tensor) -> Tensor:
    return torch.stack(net(x).unbind())


labels = torch.arange(B).flip(0) % 3

DOUBTFUL: dict[str, tuple[Callable[..., Any], Step]] = {
    "fresh": (around, lambda m, b: m(b, torch.ones(B, 4).double())),
    "of another part": (around, lambda m, b: m(b[: B // 2], b[B // 2 :])),
    "means of classes": (around, lambda m, b: m(b, classes(labels, b))),
    "counts": (lambda n, x, w: n(x) * w.sum() + w[0], lambda m, b: m(b, b.new_ones(B))),
    "transposed": (lambda n, x: n(x).cumsum(1), lambda m, b: m(b.T.reshape(4, B).mT)),
    "time first": (
        lambda n, x: n(x).cumsum(0),
        lambda m, b: m(b[:, None].expand(-1, B, -1).transpose(0, 1)),
    ),
    "time first, copied": (
        lambda n, x: n(x).cumsum(0),
        lambda m, b: m(b[:, None].expand(-1, B, -1).transpose(0, 1).contiguous() * 2),
    ),
    "features first": (lambda n, x: n(x.cumsum(0)), lambda m, b: m((b.T @ b).repeat(2, 1)[:B])),
    "a mask": (
        lambda n, x, mask: mask.masked_fill(mask > 1, 0)[: len(x), : len(x)] @ n(x),
        lambda m, b: m(b, torch.ones(B, B).double().tril()),
    ),
    "the number of samples": (lambda n, x, num: n(x) / num, lambda m, b: m(b, len(b))),
    "a mapping that takes nothing": (
        lambda n, inputs: n(inputs["x"]).cumsum(1),
        lambda m, b: m(MappingProxyType({"x": b})),
    ),
    "NumPy": (lambda n, x, w: n(x) * w.sum(), lambda m, b: m(b, b.numpy())),
    "nested": (unnested, lambda m, b: m(nested(list(b.split(2))))),
    "jagged": (unnested, lambda m, b: m(nested(list(b.split(2)), layout=torch.jagged))),
    "nested beside rows": (
        lambda n, x, w: n(x) * w,
        lambda m, b: m(b, nested(list(b)).unbind()[0]),
    ),
    "numbers": (lambda n, x, w: n(x) * sum(w), lambda m, b: m(b, b[:, 0].tolist())),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_may_have_no_row_for_each_sample_runs_in_one_piece(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, step = DOUBTFUL[name]
    assert_as_on_one_device(Call(forward, nn.Linear(4, 4)), step, x(B, 4))
    told = capsys.readouterr().err.splitlines()
    assert told
    assert all("Call runs in one piece, not split by `--strategy dp`: " in line for line in told)


class Bank(nn.Module):
    """Keeps as many prototypes as there are samples."""

    prototypes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = Call(around, nn.Linear(4, 4))
        self.register_buffer("prototypes", x(B, 4))

    def forward(self, batch: Tensor) -> Tensor:
        """How near a batch is to each."""
        out: Tensor = self.net(batch, self.prototypes)
        return out


def test_buffers_go_to_each_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Bank().double()
    monkeypatch.setattr(
        DataParallelStrategy, "_is_owned", lambda _, t: t is module.prototypes or t.ndim == 1
    )
    strategy_step: Step = lambda m, b: m.get_submodule("net")(b, module.prototypes)  # noqa: E731
    sizes = sizes_seen(module.net.parts)
    run_step(module, strategy_step, x(B, 4), 2)
    assert sizes == [(3, 4), (B, 4)] * 2
    assert_as_on_one_device(module, strategy_step, x(B, 4))


def test_time_steps_first_in_the_batch() -> None:
    lstm = nn.LSTM(4, 3)
    for num_steps in (5, B):  # with a collate_fn that may have put them there
        assert_as_on_one_device(lstm, lambda m, b: m(b), x(num_steps, B, 4), stacked=False)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("num_steps", [3, 5])
def test_states_of_rnns(layers: int, num_steps: int) -> None:
    lstm = nn.LSTM(4, 3, num_layers=layers, batch_first=True)
    batch = x(B, num_steps, 4)
    assert_as_on_one_device(lstm, lambda m, b: m(b), batch)
    states = torch.ones(layers, B, 3).double()
    assert_as_on_one_device(lstm, lambda m, b: m(b, (states, states)), batch)
    assert_as_on_one_device(lstm, lambda m, b: m(b, m(b)[1])[0], batch)
    assert_as_on_one_device(nn.LSTM(4, 3, num_layers=layers), lambda m, b: m(b), batch)


def attend(causal: Tensor, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
    x, is_padding = batch
    return module(x, x, x, key_padding_mask=is_padding, attn_mask=causal)


def test_attention_with_masks() -> None:
    own = nn.MultiheadAttention(4, 2, batch_first=True)
    for num_steps in (5, B):
        batch = (x(B, num_steps, 4), torch.arange(num_steps).expand(B, -1) > 2)
        causal = torch.ones(num_steps, num_steps).triu(1).bool()
        masked = partial(attend, causal)
        assert_as_on_one_device(own, masked, batch)
        mean: Step = lambda m, b: m(b[0], b[0], b[0], key_padding_mask=b[1])[0]  # noqa: E731
        assert_as_on_one_device(own, mean, batch)


def images(scale: float = 1.0) -> list[Tensor]:
    return [scale * x(3, 4 + i, 5) for i in range(B)]


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("divide", [False, True])
def test_lists_with_an_entry_for_each_sample(kind: Any, divide: bool) -> None:
    def forward(net: nn.Module, images: Any, names: Any) -> Any:
        assert len(images) == len(names)
        features = torch.stack([net(image).mean((1, 2)) for image in images])
        return features * torch.tensor([float(name) for name in names])[:, None]

    module = Call(forward, nn.Conv2d(3, 2, 3, padding=1))
    batch = (kind(images()), kind(str(i) for i in range(B)))
    step: Step = lambda m, b: m([i / 255 for i in b[0]] if divide else b[0], b[1])  # noqa: E731
    assert_as_on_one_device(module, step, batch)
    strategy = DataParallelStrategy()
    strategy.parallel_devices = [torch.device("cpu")] * 2
    seen: list[int] = []
    strategy.listeners.append(lambda module, args, kwargs, out: seen.append(len(out)))
    vars(strategy)["_sizes_asked"] = lambda: {B}
    strategy._calls.follow()
    with strategy._splits(batch):
        step(module, batch)
    strategy._calls.stop()
    assert seen == [3, 3]


def test_entries_that_are_dicts() -> None:
    def forward(net: nn.Module, samples: Any) -> Any:
        return [{"mean": net(s["image"]).mean(), "all": net(s["image"])} for s in samples]

    step: Step = lambda m, b: [[o["mean"], o["all"]] for o in m(b)]  # noqa: E731
    batch = [{"image": image, "id": i} for i, image in enumerate(images())]
    assert_as_on_one_device(Call(forward, nn.Conv2d(3, 2, 1)), step, batch)


def test_a_call_without_a_tensor_of_the_batch_runs_once() -> None:
    for step in (
        lambda m, b: m() + b,
        lambda m, b: m(2) + b,
        lambda m, b: m(factor=torch.tensor(2.0)) + b,
    ):
        module = Call(lambda net, factor=1: net.weight * factor, nn.Linear(4, 1))
        assert_as_on_one_device(module, step, x(B, 4))


def test_noise_beside_the_batch_runs_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    def gan(m: Any, b: Tensor) -> Any:
        fake = m.parts[0](torch.ones(B, 2).double())
        return [m.parts[1](fake), m.parts[1](b)]

    module = Call(lambda *a: None, nn.Linear(2, 4), nn.Linear(4, 1))
    assert_as_on_one_device(module, gan, x(B, 4))
    assert "a tensor (6, 2), not made of the batch, may or may not" in capsys.readouterr().err
