"""What modules of every kind return under `dp`: joined, or refused in a line."""

from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from tests.strategies.one_step import B, Call, assert_as_on_one_device, run_step, x


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


def parameters_of(distribution: Any) -> list[Tensor]:
    log_prob: Callable[[Tensor], Tensor] = distribution.log_prob
    if isinstance(distribution, Independent):
        return [*parameters_of(distribution.base_dist), log_prob(torch.zeros(B, 4))]
    if isinstance(distribution, Categorical):
        return [distribution.logits, log_prob(torch.ones(B))]
    return [distribution.mean, distribution.stddev, log_prob(torch.ones(B, 1))]


def model_output(y: Tensor) -> ModelOutput:
    out = ModelOutput()
    out["logits"], out["cache"] = y, None
    return out


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Any]]] = {
    "frozen dataclass": (lambda y: Frozen(y, "name"), lambda o: o.mean * len(o.name)),
    "user's dictionary": (lambda y: UserDict({"y": y}), lambda o: o["y"]),
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


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, x: net(x).sum(0), r"it returns a tensor \(4,\) without a row for each"),
        (lambda net, x: net(x).repeat(2, 1), "without a row for each sample"),
        (lambda net, x: (net(x), object()), "its replicas return objects that cannot be joined"),
        (lambda net, x: MappingProxyType({"y": net(x)}), "mappingproxys that cannot be joined"),
        (lambda net, x: str(net(x).sum().item()), "its replicas return strs that cannot be"),
        (lambda net, x: nn.utils.rnn.pack_sequence([net(x)]), "PackedSequences that cannot be"),
        (lambda net, x: torch.nested.as_nested_tensor(net(x)), "it returns a nested tensor"),
    ],
)
def test_outputs_that_cannot_be_joined_are_refused(forward: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        run_step(Call(forward, nn.Linear(4, 4)).double(), lambda m, b: m(b), x(B, 4), 2)


def test_a_scalar_is_taken_for_a_mean_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    module = Call(lambda net, x: net(x).mean(), nn.Linear(4, 4))
    assert_as_on_one_device(module, lambda m, b: m(b), x(B, 4))
    assert "Call returns a scalar of each replica's samples" in capsys.readouterr().err
