"""Modules of every kind under `dp`: the numbers of one device, or a line."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_app.strategies import DataParallelStrategy
from tests.runs import assert_same, fit
from tests.user_modules import OverIterator, Samples, Shuffled, Submodule

Step = Callable[[nn.Module, Any], Any]

B = 6  # samples in a batch


def run_step(module: nn.Module, step: Step, batch: Any, devices: int, **seen: Any) -> Any:
    """A step on a batch of B samples: its output, and the module's gradients and buffers."""
    strategy = DataParallelStrategy()
    strategy.parallel_devices = [torch.device("cpu")] * devices
    vars(strategy)["_sizes_asked"] = lambda: {B}
    strategy._stacks_samples = seen.get("stacked", True)
    strategy._calls.watch()
    try:
        with strategy._splits(batch):
            output = step(module, batch)
    finally:
        strategy._calls.stop()
    tensors = list(_tensors(output))
    sum(t.square().sum() * (i + 1) for i, t in enumerate(tensors) if t.requires_grad).backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return tensors, grads, [b.clone() for b in module.buffers()]


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for part in output for t in _tensors(part)]


def assert_as_on_one_device(
    module: nn.Module, step: Step, batch: Any, buffers: bool = True, **seen: Any
) -> None:
    module = module.double()
    want = run_step(copy.deepcopy(module), step, batch, 1, **seen)
    for devices in (2, 3):
        own = copy.deepcopy(module)
        names = [(part, dict(vars(part))) for part in own.modules()]
        got = run_step(own, step, batch, devices, **seen)
        for mine, theirs in zip(got[: 2 + buffers], want[: 2 + buffers], strict=True):
            assert len(mine) == len(theirs)
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert all(vars(part).keys() == before.keys() for part, before in names)


def sizes_seen(module: nn.Module) -> list[tuple[int, ...]]:
    """The sizes that hooks within the replicas see from now on."""
    sizes: list[tuple[int, ...]] = []
    for part in module.children():
        part.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    return sizes


class Call(nn.Module):
    """A module whose forward is given."""

    def __init__(self, forward: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.function = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function makes of the parts and the arguments."""
        return self.function(*self.parts, *args, **kwargs)


def x(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


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
    "NumPy": (lambda n, x, w: n(x) * w.sum(), lambda m, b: m(b, b.numpy())),
    "numbers": (lambda n, x, w: n(x) * sum(w), lambda m, b: m(b, b[:, 0].tolist())),
}


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
    strategy_step: Step = lambda m, b: m.net(b, module.prototypes)  # noqa: E731
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


def test_attention_with_masks() -> None:
    own = nn.MultiheadAttention(4, 2, batch_first=True)
    for num_steps in (5, B):
        batch = (x(B, num_steps, 4), torch.arange(num_steps).expand(B, -1) > 2)
        causal = torch.ones(num_steps, num_steps).triu(1).bool()
        step: Step = lambda m, b, mask=causal: m(  # noqa: E731
            b[0], b[0], b[0], key_padding_mask=b[1], attn_mask=mask
        )
        assert_as_on_one_device(own, step, batch)
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
    strategy._calls.watch()
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


@dataclass(frozen=True)
class Frozen:
    """An output that cannot be assigned to."""

    mean: Tensor
    name: str | None = None


class Named(NamedTuple):
    """An output."""

    mean: Tensor
    parts: list[Tensor]


class ModelOutput(OrderedDict[str, Any]):
    """An output as Hugging Face's: a dictionary with attributes."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Set the attribute, too."""
        super().__setitem__(key, value)
        super().__setattr__(key, value)


def parameters_of(distribution: Distribution) -> list[Tensor]:
    if isinstance(distribution, Independent):
        return [*parameters_of(distribution.base_dist), distribution.log_prob(torch.zeros(B, 4))]
    if isinstance(distribution, Categorical):
        return [distribution.logits, distribution.log_prob(torch.ones(B))]
    return [distribution.mean, distribution.stddev, distribution.log_prob(torch.ones(B, 1))]


def model_output(y: Tensor) -> ModelOutput:
    out = ModelOutput()
    out["logits"], out["cache"] = y, None
    return out


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Any]]] = {
    "frozen dataclass": (lambda y: Frozen(y, "name"), lambda o: o.mean * len(o.name)),
    "named tuple": (lambda y: Named(y, [y, 2 * y]), lambda o: [o.mean, *o.parts]),
    "model output": (model_output, lambda o: [o.logits, o["logits"]]),
    "array": (lambda y: (y, y.detach().numpy()), lambda o: [o[0], torch.from_numpy(o[1])]),
    "nothing": (lambda y: (y, None, "s", 3, True), lambda o: o[0] * (o[3] + len(o[2]))),
    "states": (lambda y: (y, y[None].expand(5, -1, -1)), lambda o: o),
    "normal": (lambda y: Normal(y, y.exp()), parameters_of),
    "categorical": (lambda y: Categorical(logits=y), parameters_of),
    "independent": (lambda y: Independent(Normal(y, y.exp()), 1), parameters_of),
    "top": (lambda y: y.topk(2), lambda o: [o.values, o.indices]),
    "strings": (lambda y: (y, [str(len(r)) for r in y]), lambda o: o[0] * len(o[1])),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_joined(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, read = OUTPUTS[name]
    module = Call(lambda net, x: make(net(x)), nn.Linear(4, 4))
    assert_as_on_one_device(module, lambda m, b: read(m(b)), x(B, 4))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, x: net(x).sum(0), r"it returns a tensor \(4,\) without a row for each"),
        (lambda net, x: net(x).repeat(2, 1), "without a row for each sample"),
        (lambda net, x: (net(x), object()), "its replicas return objects that cannot be joined"),
        (lambda net, x: str(net(x).sum().item()), "its replicas return strs that cannot be"),
        (lambda net, x: nn.utils.rnn.pack_sequence([net(x)]), "PackedSequences that cannot be"),
    ],
)
def test_outputs_that_cannot_be_joined_are_refused(forward: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        run_step(Call(forward, nn.Linear(4, 4)).double(), lambda m, b: m(b), x(B, 4), 2)


def test_a_scalar_is_taken_for_a_mean_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    module = Call(lambda net, x: net(x).mean(), nn.Linear(4, 4))
    assert_as_on_one_device(module, lambda m, b: m(b), x(B, 4))
    assert "Call returns a scalar of each replica's samples" in capsys.readouterr().err


def test_a_call_without_a_tensor_of_the_batch_runs_once() -> None:
    for step in (
        lambda m, b: m() + b,
        lambda m, b: m(2) + b,
        lambda m, b: m(factor=torch.tensor(2.0)) + b,
    ):
        module = Call(lambda net, factor=1: net.weight * factor, nn.Linear(4, 1))
        assert_as_on_one_device(module, step, x(B, 4))


def test_noise_beside_the_batch_runs_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    def gan(m: nn.Module, b: Tensor) -> Any:
        fake = m.parts[0](torch.ones(B, 2).double())
        return [m.parts[1](fake), m.parts[1](b)]

    module = Call(lambda *a: None, nn.Linear(2, 4), nn.Linear(4, 1))
    assert_as_on_one_device(module, gan, x(B, 4))
    assert "a tensor (6, 2), not made of the batch, may or may not" in capsys.readouterr().err


NORMED: dict[str, Callable[[], nn.Module]] = {
    "parametrized": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    "by a hook": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "weight": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
}


@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("inner", [False, True])
def test_spectral_norm(name: str, inner: bool, capsys: pytest.CaptureFixture[str]) -> None:
    for devices in (2, 3):
        torch.manual_seed(3)
        own = nn.Sequential(NORMED[name](), nn.Tanh()) if inner else NORMED[name]()
        torch.manual_seed(3)
        one = nn.Sequential(NORMED[name](), nn.Tanh()) if inner else NORMED[name]()
        want = run_step(one.double(), lambda m, b: m(b), x(B, 4), 1)
        got = run_step(own.double(), lambda m, b: m(b), x(B, 4), devices)
        for mine, theirs in zip(got, want, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not capsys.readouterr().err


class Writes(nn.Module):
    """Writes attributes and buffers in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.last: Tensor | None = None
        self.same = 0

    def forward(self, x: Tensor) -> Tensor:
        """Predict, count, and remember."""
        self.calls += 1
        self.same = 3
        self.last = self.linear(x)
        return self.last


def test_what_forward_writes_is_counted_once_or_told(capsys: pytest.CaptureFixture[str]) -> None:
    module = Writes().double()
    run_step(module, lambda m, b: m(b), x(B, 4), 2)
    assert float(module.calls) == 1
    told = capsys.readouterr().err
    assert told.startswith("Writes.forward writes last, of each replica's own samples")
    norm = nn.BatchNorm1d(4).double()
    run_step(norm, lambda m, b: m(b), x(B, 4), 2)
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * x(B, 4)[:3].mean(0), rtol=1e-12, atol=1e-12)
    assert "BatchNorm1d.forward writes running_mean, running_var" in capsys.readouterr().err


def test_hooks_on_the_outermost_module_run_once_and_inner_ones_per_replica() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    module.register_forward_pre_hook(lambda _, args: ((args[0] - 0.5) / 0.5,))
    module.register_forward_hook(lambda _, args, out: 2 * out + args[0].sum())
    grads: list[int] = []
    module.register_full_backward_hook(lambda _, grad_in, grad_out: grads.append(len(grad_out[0])))
    inner: list[int] = []
    batch = x(B, 4).requires_grad_()
    module[0].register_forward_hook(lambda _, args, out: inner.append(len(out)))
    want = run_step(copy.deepcopy(module), lambda m, b: m(b), batch, 1)
    grads.clear()
    inner.clear()
    got = run_step(module, lambda m, b: m(b), batch, 3)
    torch.testing.assert_close(got[:2], want[:2], rtol=1e-12, atol=1e-12)
    assert grads == [B]
    assert inner == [2, 2, 2]


def test_a_metric_gets_the_whole_batch() -> None:
    class Net(MeanMetric):
        """A metric with weights, as perceptual ones have."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1).double()

        def update(self, value: Tensor) -> None:
            """Take the mean of a network's output."""
            super().update(self.net(value).detach())

    metric = Net()
    run_step_without_grad(metric, x(B, 4))
    want = metric.net(x(B, 4)).mean()
    torch.testing.assert_close(metric.compute(), want.float().detach())
    assert metric._update_count == 1


def run_step_without_grad(metric: nn.Module, batch: Tensor) -> None:
    run_step(nn.Linear(4, 1).double(), lambda m, b: [metric(b), m(b)], batch, 2)


def test_checkpointed_modules_within_and_around() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    within = Call(lambda net, x: checkpoint(net, x, use_reentrant=False), net)
    assert_as_on_one_device(within, lambda m, b: m(b), x(B, 4))
    around: Step = lambda m, b: checkpoint(m, b, use_reentrant=False)  # noqa: E731
    assert_as_on_one_device(net, around, x(B, 4))


class Pickled(Submodule):
    """Is copied and pickled in its own hooks and steps."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        teacher = copy.deepcopy(self.body)
        assert pickle.loads(pickle.dumps(self.body))
        with torch.no_grad():
            torch.testing.assert_close(teacher(batch[0]), self.body(batch[0]))
        return super().training_step(batch, batch_idx)


def test_nothing_of_ours_is_in_a_module_during_and_after_a_run() -> None:
    model = Pickled()
    usual = nn.Module.__call__
    before = {name: set(vars(part)) for name, part in model.body.named_modules()}
    run = fit("dp", 2, model, Shuffled(), max_epochs=1)
    assert {name: set(vars(part)) for name, part in model.body.named_modules()} == before
    assert nn.Module.__call__ is usual
    again = pickle.loads(pickle.dumps(model.body))
    torch.testing.assert_close(again(x(2, 5)), model.body(x(2, 5)))
    torch.manual_seed(1)
    assert run.curves["batch_size/rank_0"][0] == 4


class TimeFirst(LightningDataModule):
    """Batches of sequences with the time steps first, which may be as many as the samples."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
            sequences = [x.expand(self.num_steps, -1) for x, _ in samples]
            return torch.stack(sequences, 1), torch.stack([y for _, y in samples])

        return DataLoader(Samples(20), 6, collate_fn=collate)


class Sequences(Submodule):
    """Takes sequences, time steps first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(5, 2)  # type: ignore[assignment]

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.body(batch[0])[1][0][0], batch[1])


@pytest.mark.parametrize("num_steps", [4, 6])
def test_runs_over_sequences_with_time_first(num_steps: int) -> None:
    def run(strategy: str, devices: int) -> Any:
        torch.manual_seed(4)
        return fit(strategy, devices, Sequences(), TimeFirst(num_steps), max_epochs=1)

    expected = run("single_device", 1)
    for devices in (2, 3):
        other = run("dp", devices)
        other.curves, expected.curves = {}, {}  # sizes are those of the first dimension
        assert_same(other, expected)


def test_a_step_over_the_loaders_iterator_runs_in_one_piece(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(strategy: str, devices: int) -> Any:
        torch.manual_seed(4)
        data = Shuffled(shuffle=False)
        return fit(strategy, devices, OverIterator(), data, max_epochs=1, precision="32-true")

    assert_same(run("dp", 2), run("single_device", 1))
    assert "nothing tells how many samples the batch has" in capsys.readouterr().err
