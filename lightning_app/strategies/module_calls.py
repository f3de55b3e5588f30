"""The calls of modules, followed from outside: nothing is put into a module.

A hook on a module goes wherever the module goes: into its copies, its pickles, its scripts. So
calls are followed in `nn.Module.__call__`, which is another function in the meantime. What follows
them listens to those of some modules, and may have others answered: those of a step's outermost
modules, or of some modules. An answer stands for a module's `forward`: its hooks run around that,
once, where the call is made.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch.nn import Identity, Module

from lightning_app.strategies.torch_hooks import called_with_hooks

Answer = Callable[[Module, tuple[Any, ...], dict[str, Any]], Any]
# Gets a call's arguments, those by position and by name, and what it has returned.
Listener = Callable[[tuple[Any, ...], dict[str, Any], Any], None]

_answer: ContextVar[Answer | None] = ContextVar("answer", default=None)
_answers: dict[int, Answer] = {}  # of all followers
_followers: list["ModuleCalls"] = []
_torchs: Callable[..., Any] = Module._wrapped_call_impl
_torchs_within: Callable[..., Any] = Module._call_impl  # which it calls


class ModuleCalls:
    """Follows the calls of all modules, from `follow` to `stop`.

    The class is changed once for a run, and not around each step, which would cost every module's
    attributes their cache. It has one function then, whoever begins or stops to follow: what
    torch.compile has made depends on it.

    Args:
        listeners: Called after each call of their modules.
        answers: Stand for the `forward` of their modules.

    Attributes:
        modules: Those that are listened to; kept here, so that nothing else gets their `id`.
        listeners: By the modules' `id`: a metric's hash is one of all that it holds.
    """

    def __init__(
        self,
        listeners: Mapping[Module, Listener] | None = None,
        answers: Mapping[Module, Answer] | None = None,
    ) -> None:
        self.modules = (*(listeners or ()), *(answers or ()))
        self._answers = {id(module): each for module, each in (answers or {}).items()}
        self.listeners = {id(module): each for module, each in (listeners or {}).items()}

    def follow(self) -> None:
        """Begin; once is enough, and twice does no harm."""
        if not _is_in_place():
            if Module.__call__ is _torchs:
                Module.__call__ = _call  # type: ignore[method-assign]
            elif Module._call_impl is _torchs_within:
                # What another has put in `__call__` stays there, and comes to torch's in its turn.
                Module._call_impl = _call_within  # type: ignore[method-assign, assignment]
        if self not in _followers:
            _followers.append(self)
            _answers.update(self._answers)

    def stop(self) -> None:
        """End; once is enough, and twice does no harm."""
        if self in _followers:
            _followers.remove(self)
            for number in self._answers:
                _answers.pop(number, None)
            if not _followers and Module.__call__ is _call:  # else another stands around it
                Module.__call__ = _torchs  # type: ignore[method-assign]
            if not _followers and Module._call_impl is _call_within:
                Module._call_impl = _torchs_within  # type: ignore[method-assign]


def _is_in_place() -> bool:
    """Whether `_call` is called: another function may stand around it, or in its place."""
    heard: list[Any] = []
    probe = Identity()
    follower = ModuleCalls({probe: lambda *call: heard.append(call)})
    _followers.append(follower)
    try:
        probe(None)
    finally:
        _followers.remove(follower)
    return bool(heard)


def _call(module: Module, /, *args: Any, **kwargs: Any) -> Any:
    """What `nn.Module.__call__` is in the meantime."""
    return _followed(_torchs, module, args, kwargs)


def _call_within(module: Module, /, *args: Any, **kwargs: Any) -> Any:
    return _followed(_torchs_within, module, args, kwargs)


def _followed(
    usual: Callable[..., Any], module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if torch.compiler.is_compiling():  # by the user's own `torch.compile`
        return usual(module, *args, **kwargs)
    answer = _answers.get(id(module)) or _answer.get()
    is_traced = torch._C._get_tracing_state() is not None
    if answer is None or is_traced or next(module.parameters(), None) is None:
        output = usual(module, *args, **kwargs)
    else:
        output = called_with_hooks(module, partial(_answered, answer, module), args, kwargs)
    for follower in _followers:
        if (listener := follower.listeners.get(id(module))) is not None:
            listener(args, kwargs, output)
    return output


def _answered(answer: Answer, module: Module, *args: Any, **kwargs: Any) -> Any:
    with answered_by(None):
        return answer(module, args, kwargs)


@contextmanager
def replicas_heard_as(module: Module, replicas: Iterable[Module]) -> Iterator[None]:
    """Have the calls of what is in replicas of a module heard as those in the module itself."""
    if not any(follower.listeners for follower in _followers):
        yield
        return
    parts = dict(module.named_modules())
    heard = [
        (follower.listeners, id(parts[path]), id(replica))
        for replica_of_all in replicas
        for path, replica in replica_of_all.named_modules()
        for follower in _followers
        if path in parts and id(parts[path]) in follower.listeners  # a script's are its own
    ]
    for listeners, part, replica in heard:
        listeners[replica] = listeners[part]
    try:
        yield
    finally:
        for listeners, _, replica in heard:
            del listeners[replica]


@contextmanager
def answered_by(answer: Answer | None) -> Iterator[None]:
    """Let `answer` stand for the `forward` of each module with parameters, within this thread."""
    token = _answer.set(answer)
    try:
        yield
    finally:
        _answer.reset(token)
