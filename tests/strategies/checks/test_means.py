"""A loss that weighs or leaves out labels, or compares samples, is told, where this can be seen."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from lightning_app.strategies.checks.gathers import Gathers
from lightning_app.strategies.checks.means import tells_of_weighted_means

scores, labels = torch.zeros(4, 3), torch.tensor([0, 1, 2, -100])
shifted = torch.tensor([0, -100, 2, -100])  # two samples, of two words
weights = torch.tensor([1.0, 2.0, 1.0])

TOLD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "ignored": (lambda: functional.cross_entropy(scores, labels), "leaves out labels of -100"),
    "another": (
        lambda: functional.cross_entropy(scores, labels.clamp(0), ignore_index=2),
        "leaves out labels of 2",
    ),
    "weights": (lambda: functional.nll_loss(scores, labels.abs() % 3, weights), "weighs its"),
    "a module": (
        lambda: torch.nn.CrossEntropyLoss(weight=weights)(scores, labels.clamp(0)),
        "weighs its classes",
    ),
    "labels of nodes": (
        lambda: functional.cross_entropy(scores[:3], labels[:3]),
        "does not have as many values for one sample as for another",
    ),
}

NOT_TOLD: dict[str, Callable[[], Tensor]] = {
    "all labels": lambda: functional.cross_entropy(scores, labels.clamp(0)),
    "a sum, divided": lambda: functional.cross_entropy(scores, labels, reduction="sum") / 4,
    "each": lambda: functional.cross_entropy(scores, labels, reduction="none"),
    "soft labels": lambda: functional.cross_entropy(scores, scores),
    "soft labels, weighed": lambda: functional.cross_entropy(scores, scores, weights),
    "texts shifted by a word": lambda: functional.cross_entropy(scores, shifted),
    "another loss": lambda: functional.mse_loss(scores, scores),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_told(name: str) -> None:
    loss, why = TOLD[name]
    expected = loss()
    lines: list[str] = []
    with tells_of_weighted_means("A.training_step", 2, lines.append, Gathers()):
        assert loss().equal(expected)
    assert len(lines) == 1
    line = lines[0]
    assert re.match(rf"A.training_step: \w+ {why}.*`loss_is_mean_over\(batch\)`", line)


@pytest.mark.parametrize("name", NOT_TOLD)
def test_what_is_not_told(name: str) -> None:
    expected = NOT_TOLD[name]()
    lines: list[str] = []
    with tells_of_weighted_means("A.training_step", 2, lines.append, Gathers()):
        assert NOT_TOLD[name]().equal(expected)
    assert lines == []


made = torch.ones(2, 4, requires_grad=True) * 1  # of the samples
codes = torch.nn.Parameter(torch.ones(1, 4))
layer, weight = torch.nn.Linear(4, 1), torch.nn.Parameter(torch.ones(4))
named: dict[str, Tensor] = dict(layer.named_parameters())


def loss_of(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """What meta-learning goes one step down, or what each sample's gradient is taken of."""
    return functional.mse_loss(functional_call(layer, parameters, (x,)), torch.zeros(len(x), 1))


COMPARED: dict[str, Callable[[], Tensor]] = {
    "CLIP": lambda: made @ made.T,
    "SimCLR": lambda: torch.cat([made, made]) @ torch.cat([made, made]).mT,
    "triplets": lambda: torch.cdist(made, made),
    "pairs": lambda: functional.pdist(made),
    "cosine": lambda: functional.cosine_similarity(made[:, None], made[None], dim=-1),
    "Barlow Twins": lambda: made.T @ made,
    "by letters": lambda: torch.einsum("nc,mc->nm", made, made),
    "of a list": lambda: torch.einsum("nc,mc->nm", [made, made]),
    "features by letters": lambda: torch.einsum("nc,nd->cd", made, made),
    "by dimensions": lambda: torch.tensordot(made, made, dims=([1], [1])),
    "inner": lambda: torch.inner(made, made),
    "inner, of one": lambda: made.inner(made),
    "as a layer": lambda: functional.linear(made, made),
    "pairwise": lambda: functional.pairwise_distance(made[:, None], made[None]),
    "prototypes": lambda: torch.cdist(made, made.mean(0, keepdim=True)),
}
NOT_COMPARED: dict[str, Callable[[], Tensor]] = {
    "a weight": lambda: made @ torch.ones(4, 2, requires_grad=True),
    "a layer": lambda: torch.nn.Linear(4, 2)(made),
    "distances of others": lambda: functional.pdist(torch.ones(3, 4) * made[:1]),
    "a layer as wide as a batch": lambda: torch.nn.Linear(4, 2)(made),
    "a computed layer": lambda: spectral_norm(torch.nn.Linear(4, 2))(made),
    "attention by letters": lambda: torch.einsum("bic,bjc->bij", made[:, None], made[:, None]),
    "experts, as many features": lambda: torch.einsum(
        "bed,be->bd", made.view(2, 2, 2), made[:, :2]
    ),
    "a softmax over time": lambda: made.view(2, 2, 2).softmax(0),
    "distances within a sample": lambda: torch.stack(
        [torch.cdist(p, p) for p in made.view(2, 1, 4)]
    ),
    "distances of others, by two": lambda: torch.cdist(made[:1], made[1:].expand(3, 4)),
    "a number by letters": lambda: torch.einsum(",bd->bd", made.sum(), made),
    "a codebook": lambda: torch.cdist(made, functional.normalize(codes)),
    "a bilinear layer": lambda: torch.einsum("bi,ij,bj->b", made, codes.expand(4, 4), made),
    "a softmax over features": lambda: made.softmax(1),
    "a softmax of parameters": lambda: (codes.expand(2, 4) * 1).softmax(0),
    "rows made one long": lambda: functional.normalize(made),
    "ends of graphs": lambda: torch.tensor([3, 4]).cumsum(0),
    "a shifted window": lambda: made.roll(1, 1),
    "images, flipped": lambda: made.flip(1) + made.flip((-1,)) + torch.flip(made, [1]),
    "a queue": lambda: made @ torch.ones(4, 2),
    "attention": lambda: made.reshape(2, 2, 2) @ made.reshape(2, 2, 2),
    "a step without gradients": lambda: made.detach() @ made.detach().T,
    "a layer's own norm": lambda: made / (made.std(-1, keepdim=True) + made.var(1)[:, None]),
    "a number's spread": lambda: torch.tensor(1.0).var(correction=0),
    "a penalty's gradients": lambda: torch.autograd.grad(made.sum(), made, create_graph=True)[0],
    "gradients of each sample": lambda: vmap(grad(lambda x: loss_of(named, x[None])))(made.data),
    "gradients by inputs": lambda: grad(lambda x: layer(x).sum())(made.data),
}
OF_ALL: dict[str, tuple[Callable[[], object], str]] = {
    "VICReg": (lambda: made.var(dim=0), "takes `var` over the samples"),
    "advantages": (lambda: (made - made.mean()) / made.std(), "takes `std` over the samples"),
    "both": (lambda: torch.std_mean(made, (0, 1)), "takes `std_mean` over the samples"),
    "negatives": (lambda: made.roll(1, 0), "takes `roll` over the samples"),
    "negatives, by names": (
        lambda: torch.roll(made, shifts=1, dims=(0,)),
        "takes `roll` over the samples",
    ),
    "timm's mixup": (lambda: made.flip(0), "takes `flip` over the samples"),
    "both ways": (lambda: made.flip(1, -2), "takes `flip` over the samples"),
    "mixup, by names": (lambda: torch.flip(made, dims=[0]), "takes `flip` over the samples"),
    "upside down": (lambda: made.flipud(), "takes `flipud` over the samples"),
    "by a function": (lambda: torch.flipud(made), "takes `flipud` over the samples"),
    "Cox": (lambda: made.logcumsumexp(0), "takes `logcumsumexp` over the samples"),
    "sums": (lambda: torch.cumsum(made, dim=0), "takes `cumsum` over the samples"),
    "all": (lambda: made.logsumexp((0, 1)), "takes `logsumexp` over the samples"),
    "ranks": (lambda: torch.nn.Softmax(0)(made), "takes `softmax` over the samples"),
    "ranks, logs": (lambda: made.log_softmax(-2), "takes `log_softmax` over the samples"),
    "columns": (
        lambda: functional.normalize(made, dim=0),
        "takes `normalize` over the samples",
    ),
    "balanced losses": (
        lambda: torch.autograd.grad((made * weight).sum(), weight),
        "takes gradients of the samples by parameters",
    ),
    "balanced losses, by names": (
        lambda: torch.autograd.grad(outputs=(made * weight).sum(), inputs=[weight]),
        "takes gradients of the samples by parameters",
    ),
    "meta-learning": (
        lambda: grad(loss_of)(named, made.data),
        "takes gradients of the samples by parameters",
    ),
}


@pytest.mark.parametrize("name", COMPARED)
def test_comparisons_are_told(name: str) -> None:
    lines: list[str] = []
    with tells_of_weighted_means("A.training_step", 2, lines.append, Gathers()):
        COMPARED[name]()
    assert [line[:45] for line in lines] == ["A.training_step compares each sample with the"]


@pytest.mark.parametrize("name", NOT_COMPARED)
def test_what_compares_nothing_is_not_told(name: str) -> None:
    lines: list[str] = []
    with tells_of_weighted_means("A.training_step", 2, lines.append, Gathers()):
        NOT_COMPARED[name]()
    assert lines == []


@pytest.mark.parametrize("name", OF_ALL)
def test_what_is_of_all_samples_is_told(name: str) -> None:
    compute, what = OF_ALL[name]
    lines: list[str] = []
    with tells_of_weighted_means("A.training_step", 2, lines.append, Gathers()):
        compute()
    assert [line.split(", of which")[0] for line in lines] == [f"A.training_step {what}"]
