"""Calls of modules are followed, whatever else stands in `nn.Module.__call__`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import Linear, Module
from torch.nn.modules.module import register_module_forward_hook
from typing_extensions import override

from lightning_app.strategies.module_calls import ModuleCalls

USUAL = Module.__call__


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    yield
    Module.__call__ = USUAL  # type: ignore[method-assign]


def test_another_function_around_it_stays_and_one_in_its_place_is_followed() -> None:
    heard: list[str] = []
    module, x = Linear(1, 1), torch.ones(1)
    first = ModuleCalls({module: lambda *call: heard.append("first")})
    second = ModuleCalls({module: lambda *call: heard.append("second")})

    first.follow()
    inner: Any = Module.__call__

    def around(self: Module, *args: Any, **kwargs: Any) -> Any:
        return inner(self, *args, **kwargs)

    Module.__call__ = around  # type: ignore[method-assign]
    first.stop()
    module(x)
    assert (heard, Module.__call__) == ([], around)
    first.follow()
    module(x)
    assert heard == ["first"]

    Module.__call__ = USUAL  # type: ignore[method-assign]
    second.follow()
    module(x)
    assert heard == ["first", "first", "second"]
    second.stop()
    first.stop()
    assert Module.__call__ is USUAL


class Hashes(Linear):
    """Counts how often it is hashed, which takes a metric as long as all that it holds."""

    num_hashes = 0

    @override
    def __hash__(self) -> int:
        type(self).num_hashes += 1
        return super().__hash__()


def test_a_call_hashes_no_module() -> None:
    heard: list[Any] = []
    module = Hashes(1, 1)
    calls = ModuleCalls({module: lambda *call: heard.append(call)})
    calls.follow()
    before = Hashes.num_hashes
    module(torch.ones(1))
    calls.stop()
    assert (len(heard), Hashes.num_hashes) == (1, before)


@pytest.mark.parametrize("hooks", ["register_forward_hook", "all modules"])
def test_hooks_run_around_an_answer_and_nothing_is_put_into_their_module(hooks: str) -> None:
    module, heard = Linear(1, 1), list[str]()

    def answer(*call: Any) -> None:
        heard.append("forward" if "forward" in vars(module) else "answer")

    calls = ModuleCalls(answers={module: answer})
    calls.follow()
    module(torch.ones(1))
    register = getattr(module, hooks, register_module_forward_hook)
    handle = register(lambda *call: heard.append("hook"))
    module(torch.ones(1))
    handle.remove()
    calls.stop()
    assert heard == ["answer", "answer", "hook"]


def test_what_stands_in_its_place_from_the_start_hears_calls_that_are_answered() -> None:
    heard: list[str] = []
    module, inner = Linear(1, 1), Module.__call__

    def around(self: Module, *args: Any, **kwargs: Any) -> Any:
        heard.append("around")
        return inner(self, *args, **kwargs)

    Module.__call__ = around  # type: ignore[method-assign]
    calls = ModuleCalls(answers={module: lambda *call: heard.append("answer")})
    usual = Module._call_impl
    for _ in range(2):
        calls.follow()
        calls.follow()
        heard.clear()
        module(torch.ones(1))
        assert (heard, Module.__call__) == (["around", "answer"], around)
        calls.stop()
        assert Module._call_impl is usual
    assert torch.is_tensor(module(torch.ones(1)))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_a_trace_is_of_the_module_itself() -> None:
    module = Linear(1, 1)
    calls = ModuleCalls(answers={module: lambda *call: torch.zeros(1)})
    calls.follow()
    traced: Any = torch.jit.trace(module, torch.ones(1), check_trace=False)  # type: ignore[no-untyped-call]
    calls.stop()
    torch.testing.assert_close(traced(torch.ones(1)), module(torch.ones(1)))
