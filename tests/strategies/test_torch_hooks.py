"""Hooks run around another function as torch runs them around a module's own forward."""

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torchs
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_app.strategies.module_calls import ModuleCalls
from lightning_app.strategies.torch_hooks import called_with_hooks


class Scaled(nn.Module):
    """Takes an argument by name, and returns what it is told to."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.linear, self.form = nn.Linear(3, 2).double(), form

    @override
    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        if self.form == "error":
            raise ValueError("mine")
        y = self.linear(x) * scale
        return {"dict": {"n": 1, "y": y}, "list": [y, 1], "tuple": (y, x)}.get(self.form, y)


class Log(list[Any]):
    """What hooks have heard.

    Attributes:
        names: Those of the modules.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.names = {id(each): name for name, each in module.named_modules()}


Register = Callable[[Scaled, Log], RemovableHandle]


def _noting(log: Log, name: str, change: Callable[..., Any] | None = None) -> Callable[..., Any]:
    def hook(module: nn.Module, *heard: Any) -> Any:
        log.append((name, log.names[id(module)], _plain(heard)))
        return change(*heard) if change is not None else None

    return hook


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _failing(*args: Any) -> None:
    raise KeyError("the hook's")


KINDS: dict[str, Register] = {
    "before": lambda m, log: m.register_forward_pre_hook(_noting(log, "a")),
    "before, gives one": lambda m, log: m.register_forward_pre_hook(
        _noting(log, "a", lambda args: args[0] + 1)
    ),
    "before, gives all": lambda m, log: m.register_forward_pre_hook(
        _noting(log, "a", lambda args: (args[0] + 1, 3.0))
    ),
    "before, by name": lambda m, log: m.register_forward_pre_hook(
        _noting(log, "b", lambda args, kwargs: (args, {"scale": 2.0})), with_kwargs=True
    ),
    "before, gives what it must not": lambda m, log: m.register_forward_pre_hook(
        _noting(log, "b", lambda args, kwargs: 1), with_kwargs=True
    ),
    "before, registers another": lambda m, log: m.register_forward_pre_hook(
        lambda module, args: module.register_full_backward_hook(_noting(log, "late")) and None
    ),
    "before, fails": lambda m, log: m.register_forward_pre_hook(_failing),
    "after": lambda m, log: m.register_forward_hook(_noting(log, "c")),
    "after, first": lambda m, log: m.register_forward_hook(_noting(log, "first"), prepend=True),
    "after, by name": lambda m, log: m.register_forward_hook(_noting(log, "d"), with_kwargs=True),
    "after, gives": lambda m, log: m.register_forward_hook(
        _noting(log, "c", lambda args, result: result * 2 if torch.is_tensor(result) else None)
    ),
    "after, fails": lambda m, log: m.register_forward_hook(_failing),
    "always": lambda m, log: m.register_forward_hook(_noting(log, "e"), always_call=True),
    "always, by name": lambda m, log: m.register_forward_hook(
        _noting(log, "f"), always_call=True, with_kwargs=True
    ),
    "always, fails": lambda m, log: m.register_forward_hook(_failing, always_call=True),
    "backward": lambda m, log: m.register_full_backward_hook(_noting(log, "g")),
    "backward, gives": lambda m, log: m.register_full_backward_hook(
        _noting(log, "g", lambda grads, of_output: tuple(g * 2 for g in grads))
    ),
    "before backward": lambda m, log: m.register_full_backward_pre_hook(_noting(log, "h")),
    "backward of old": lambda m, log: m.register_backward_hook(_noting(log, "i")),
    "all: before": lambda m, log: torchs.register_module_forward_pre_hook(_noting(log, "j")),
    "all: after": lambda m, log: torchs.register_module_forward_hook(_noting(log, "k")),
    "all: after, by name": lambda m, log: torchs.register_module_forward_hook(
        _noting(log, "l"), with_kwargs=True
    ),
    "all: always": lambda m, log: torchs.register_module_forward_hook(
        _noting(log, "m"), always_call=True
    ),
    "all: backward": lambda m, log: torchs.register_module_full_backward_hook(_noting(log, "n")),
    "all: before backward": lambda m, log: torchs.register_module_full_backward_pre_hook(
        _noting(log, "o")
    ),
}


@contextmanager
def _registered(kinds: tuple[str, ...], module: Scaled, log: Log) -> Iterator[None]:
    handles = [KINDS[kind](module, log) for kind in dict.fromkeys(kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _heard(call: Callable[..., Any], kinds: tuple[str, ...], form: str) -> tuple[Any, ...]:
    """What hooks hear of a call, what it gives, and the gradients of that."""
    torch.manual_seed(0)
    module = Scaled(form)
    log, given = Log(module), None
    x = torch.arange(6.0, dtype=torch.float64).reshape(2, 3).requires_grad_()
    with warnings.catch_warnings(record=True) as warned, _registered(kinds, module, log):
        warnings.simplefilter("always")
        try:
            given = call(module, x, scale=0.5)
        except Exception as error:
            is_torchs = isinstance(error, RuntimeError)
            log.append((type(error), None if is_torchs else error.args))
        else:
            values = given.values() if isinstance(given, dict) else given
            y = given if torch.is_tensor(given) else next(v for v in values if torch.is_tensor(v))
            torch.autograd.backward(y.sum())
    gradients = _plain([x.grad, *(p.grad for p in module.parameters())])
    return list(log), _plain(given), gradients, len(warned)


def _as_torch(module: Scaled, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


def _with_hooks(module: Scaled, *args: Any, **kwargs: Any) -> Any:
    return called_with_hooks(module, module.forward, args, kwargs)


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "dict", "error"])
def test_hooks_hear_and_change_what_they_do_in_torchs_own_call(form: str) -> None:
    num_heard = num_warned = 0
    pairs = combinations_with_replacement(KINDS, 2)
    for kinds in (*pairs, ("before, gives one", "before, fails", "always, by name")):
        if "backward of old" in kinds and {*kinds} & {"backward", "backward, gives"}:
            continue  # torch refuses both on one module
        usual = _heard(_as_torch, kinds, form)
        assert _heard(_with_hooks, kinds, form) == usual, kinds
        num_heard, num_warned = num_heard + len(usual[0]), num_warned + usual[3]
    assert num_heard > 300
    assert num_warned > 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_a_script_which_takes_no_hooks_has_those_of_all_modules() -> None:
    module, x = torch.jit.script(nn.Linear(1, 1)), torch.ones(1)
    handle = torchs.register_module_forward_hook(lambda module, args, result: result + 1)
    given = called_with_hooks(module, module.forward, (x,), {})
    handle.remove()
    torch.testing.assert_close(given, module.forward(x) + 1)


class Copying:
    """A hook that copies and pickles its module, as averages of weights and their callbacks do."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]


def test_a_hook_that_copies_an_answered_module_copies_no_answer() -> None:
    module, x = Scaled("tensor"), torch.ones(1, 3).double()
    hook = Copying()
    handle = module.register_forward_pre_hook(hook)
    usual = module(x)
    calls = ModuleCalls(answers={module: lambda *call: torch.zeros(1)})
    calls.follow()
    answered = module(x)
    handle.remove()
    own = [each(x) for each in hook.copies]
    calls.stop()
    assert answered.item() == 0
    torch.testing.assert_close(own, [usual, usual])
