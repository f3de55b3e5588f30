"""What a loss is a mean over is read off its graph."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_app.strategies.checks.loss_graph import MOST_NODES, why_no_mean

N, WHOLE = 5, 15  # samples of a process, and of all
torch.manual_seed(1)
net, deep = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), nn.Linear(3, 2)
x, y = torch.randn(N, 3), torch.randn(N, 2)
mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
labels = torch.tensor([0, 1, 1, 0, 1])
factor = nn.Parameter(torch.tensor(1.0))
A_SUM = "is a sum over samples, not divided by their number"


maps = nn.Conv1d(2, 3, 2)  # of 7 places, by which 5 samples do not divide
wider = nn.Linear(2, 2 * N)
signal, target = torch.randn(N, 2, 8), torch.rand(N, 3, 7)


def overlap(of: Tensor, true: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Dice's coefficient, of what is left beside the dimensions."""
    both = of.sum(dims) + true.sum(dims)
    return 2 * (of * true).sum(dims) / both


def wide() -> Tensor:
    """Three classes of each sample, over as many places as there are samples, twice."""
    return nn.functional.pad(maps(signal), (0, 3)).softmax(1)


def classes() -> Tensor:
    return torch.softmax(maps(signal), 1)


def errors() -> Tensor:
    return functional.mse_loss(net(x), y, reduction="none")


def each(index: int) -> Tensor:
    """The loss of a sample, a mean over its values."""
    return functional.mse_loss(net(x[index : index + 1]), y[index : index + 1])


TOLD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "a sum": (lambda: errors().sum(), A_SUM),
    "a weighed sum": (lambda: 0.9 * errors().sum() + 0.1 * errors().mean(), A_SUM),
    "reduction": (lambda: functional.mse_loss(net(x), y, reduction="sum"), A_SUM),
    "of labels": (lambda: functional.cross_entropy(net(x), labels, reduction="sum"), A_SUM),
    "a part": (lambda: errors().mean() + 1.0 * net(x).exp().sum(), A_SUM),
    "sums in a stack": (lambda: torch.stack([errors().sum(), errors().sum()]).mean(), A_SUM),
    "an LSTM": (lambda: nn.LSTM(3, 2)(x)[0].sum(), A_SUM),
    "words": (lambda: nn.Embedding(2, 3)(labels).sum(), A_SUM),
    "a mask": (
        lambda: (errors() * mask).sum() / mask.sum().clamp(min=1),
        "is a sum divided by 7, and not by the 5 samples",
    ),
    "a batch size": (lambda: errors().sum() / 12, "is a sum divided by 12, and not by"),
    "the whole batch's": (lambda: errors().sum() / WHOLE, "is a sum divided by 15, and not by"),
    "a root": (lambda: errors().mean().sqrt(), "puts samples together by `sqrt`, and not by"),
    "a norm": (lambda: torch.norm(net(x) - y), "puts samples together by `linalg_vector_norm`"),
    "the worst": (lambda: errors().max(), "puts samples together by `max`"),
    "Dice": (
        lambda: 1 - 2 * (net(x) * mask).sum() / (net(x).sum() + mask.sum()),
        "puts samples together by `div`",
    ),
    "Dice of each class": (
        lambda: (1 - overlap(classes(), target, (0, 2))).mean(),
        "puts samples together by `div`",
    ),
    "Dice of each class, weighed": (
        lambda: (torch.ones(3) * (1 - overlap(classes(), target, (0, 2)))).sum(),
        "puts samples together by `div`",
    ),
    "Dice of each class, flattened": (
        lambda: -overlap(classes().mT.reshape(-1, 3), target.mT.reshape(-1, 3), (0,)).log().mean(),
        "puts samples together by `log`",
    ),
    "entropy of the mean prediction": (
        lambda: -(net(x).softmax(1).mean(0) * net(x).softmax(1).mean(0).log()).sum(),
        "puts samples together by",
    ),
    "means of features": (
        lambda: functional.mse_loss(net(x).mean(0), y.mean(0)),
        "puts samples together by `mse_loss`",
    ),
    "a selection": (lambda: errors()[mask > 0].mean(), "is a mean of 7 values of 5 samples"),
    "the hardest": (lambda: errors().flatten().topk(3).values.mean(), "is a mean of 3 values"),
    "nodes": (lambda: functional.mse_loss(deep(x)[:4], y[:4]), "is a mean of 8 values of 5"),
    "pairs chosen in the batch": (
        lambda: functional.triplet_margin_loss(net(x)[:3], y[:3], y[2:]),
        "is a mean of 3 values of 5 samples",
    ),
}

NOT_TOLD: dict[str, Callable[[], Tensor]] = {
    "a mean": lambda: errors().mean(),
    "of rows": lambda: errors().sum(1).mean(),
    "divided": lambda: errors().sum() / N,
    "divided by values": lambda: errors().sum() / torch.tensor(2 * N),
    "divided in place": lambda: errors().sum().div_(N),
    "multiplied": lambda: errors().sum() * (1 / N),
    "weighed": lambda: 0.3 * (errors().sum() / N),
    "scaled": lambda: 1024 * errors().mean(),
    "accumulated": lambda: errors().sum() / N / 4,
    "a mean of a mean": lambda: errors().mean().unsqueeze(0).mean(),
    "means in a stack": lambda: torch.stack([errors().mean(), net(x).mean()]).sum(),
    "sample by sample": lambda: torch.stack([each(i) for i in range(N)]).mean(),
    "added up": lambda: sum((each(i) for i in range(N)), torch.zeros(())) / N,
    "a penalty": lambda: errors().mean() + 0.01 * sum(p.abs().sum() for p in net.parameters()),
    "orthogonal": lambda: errors().mean() + (deep.weight @ deep.weight.T).square().sum(),
    "norms": lambda: errors().mean() + sum(p.norm() for p in net.parameters()),
    "weighed by what is learnt": lambda: torch.exp(-factor) * errors().mean() / factor + factor,
    "Dice, sample by sample": lambda: (net(x).sum(1) / net(x).exp().sum(1)).mean(),
    "Dice of each sample and class": lambda: (1 - overlap(classes(), target, (2,))).mean(),
    "Dice of each class, sample by sample": lambda: torch.stack(
        [overlap(p, t, (1,)).mean() for p, t in zip(wide(), wide().detach(), strict=True)]
    ).mean(),
    "Dice of each class, sample by sample, in a row": lambda: torch.cat(
        [overlap(p, t, (0,)) for p, t in zip(wide().mT, wide().mT.detach(), strict=True)]
    ).mean(),
    "standardized": lambda: ((net(x) - net(x).mean(1, True)) / net(x).std(1, keepdim=True)).mean(),
    "time first": lambda: overlap(classes().permute(2, 0, 1), target.permute(2, 0, 1), (2,)).mean(),
    "softmax by hand": lambda: (net(x).exp() / net(x).exp().sum(1, True)).log().mean(),
    "attention": lambda: (classes() @ classes().mT).softmax(2).pow(2).sum(1).mean(),
    "groups of weights": lambda: errors().mean() + wider.weight.pow(2).sum(0).sqrt().sum(),
    "roots, added up": lambda: sum((each(i).sqrt() for i in range(N)), torch.zeros(())) / N,
    "labels": lambda: functional.cross_entropy(net(x), labels),
    "soft labels": lambda: functional.cross_entropy(net(x), y.softmax(1)),
    "batchmean": lambda: functional.kl_div(net(x), y, reduction="batchmean"),
    "two triplets of each": lambda: functional.triplet_margin_loss(net(x), y, y + 1),
    "not learnt from": lambda: y.sum(),
    "a mean over samples, summed": lambda: errors().mean(0).sum(),
    "a mean over samples, averaged": lambda: errors().mean(0).mean(),
    "divided before it is summed": lambda: (errors().sum(0) / N).sum(),
    "weighed losses": lambda: (factor * torch.stack([errors().mean(), net(x).mean()])).sum(),
    "losses in a row": lambda: torch.cat([errors().mean().view(1), net(x).mean().view(1)]).sum(),
    "as many losses as samples": lambda: torch.stack([errors().mean()] * N).sum(),
    "divided by a vector of one": lambda: (errors().sum() / torch.tensor([N])).squeeze(),
    "times what is no number": lambda: errors().sum() * torch.tensor(float("nan")),
    "over what is infinite": lambda: errors().sum() / torch.tensor(float("inf")),
    "expanded": lambda: errors().mean().expand(1).sum(),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_no_mean(name: str) -> None:
    loss, why = TOLD[name]
    assert (why_no_mean(loss(), N, WHOLE) or "").startswith(why)


def test_what_lightning_divides_by_is_not_the_models() -> None:
    for accumulated in (1, 4, N):
        told = why_no_mean(errors().sum() / accumulated, N, WHOLE, accumulated)
        assert told == A_SUM
    assert why_no_mean(errors().sum() / N, N, WHOLE, accumulated=4) is None


def test_a_large_graph_is_not_looked_at() -> None:
    deepest = net(x)
    for _ in range(MOST_NODES):
        deepest = deepest.tanh()
    assert why_no_mean(deepest.sum(), N, WHOLE) is None


def test_nothing_is_computed_anew() -> None:
    calls = []

    def head(hidden: Tensor) -> Tensor:
        calls.append(1)
        return functional.cross_entropy(hidden, labels, reduction="sum")

    loss = checkpoint(head, net(x), use_reentrant=False)
    assert isinstance(loss, Tensor)
    assert why_no_mean(loss, N, WHOLE) == A_SUM
    assert len(calls) == 1


@pytest.mark.parametrize("name", NOT_TOLD)
def test_what_is_one_or_may_be(name: str) -> None:
    assert why_no_mean(NOT_TOLD[name](), N, WHOLE) is None
    assert why_no_mean(NOT_TOLD[name](), N, N) is None
