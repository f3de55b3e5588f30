"""Calls of modules are followed, whatever else stands in `nn.Module.__call__`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import Linear, Module
from torch.nn.modules.module import register_module_forward_hook
from typing_extensions import override

from lightning_app.strategies import module_calls
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


def test_only_a_module_with_hooks_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its hooks run around the answer."""
    module, heard = Linear(1, 1), list[str]()
    calls = ModuleCalls(answers={module: lambda *call: heard.append("answer")})
    written = module_calls._forward_once
    monkeypatch.setattr(module_calls, "_forward_once", lambda *args: heard.append("written"))
    calls.follow()
    module(torch.ones(1))
    assert heard == ["answer"]
    monkeypatch.setattr(module_calls, "_forward_once", written)
    for hooks in (module.register_forward_hook, register_module_forward_hook):
        heard.clear()
        handle = hooks(lambda *call: heard.append("hook"))
        module(torch.ones(1))
        handle.remove()
        assert heard == ["answer", "hook"]
        assert "forward" not in vars(module)
    calls.stop()
