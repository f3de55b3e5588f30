"""The calls of modules, followed from outside: nothing is put into a module.

A hook on a module goes wherever the module goes: into its copies, its pickles, its scripts. So
calls are followed in `nn.Module.__call__`, which is another function in the meantime. What follows
them listens to those of some modules, and may have others answered: those of a step's outermost
modules, or of some modules. Where a module has hooks, they run in the usual `__call__`, around its
`forward`. To let them run once, where the call is made, only the `forward` within is replaced, and
for that one call.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import Identity, Module
from torch.nn.modules.module import _has_any_global_hook

Answer = Callable[[Module, tuple[Any, ...], dict[str, Any]], Any]
# Gets a call's arguments, those by position and by name, and what it has returned.
Listener = Callable[[tuple[Any, ...], dict[str, Any], Any], None]

_answer: ContextVar[Answer | None] = ContextVar("answer", default=None)
_answers: dict[int, Answer] = {}  # of all followers
_followers: list["ModuleCalls"] = []
_usual: Callable[..., Any] = Module.__call__
_torchs = Module._wrapped_call_impl


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
        global _usual
        if not _is_in_place():
            _usual = Module.__call__
            Module.__call__ = _call  # type: ignore[method-assign]
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
                Module.__call__ = _usual  # type: ignore[method-assign]


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
    if torch.compiler.is_compiling():  # by the user's own `torch.compile`
        return _usual(module, *args, **kwargs)
    answer = _answers.get(id(module)) or _answer.get()
    if answer is None or next(module.parameters(), None) is None:
        output = _usual(module, *args, **kwargs)
    elif _calls_forward_alone(module):
        with answered_by(None):
            output = answer(module, args, kwargs)
    else:
        with _forward_once(module, answer):
            output = _usual(module, *args, **kwargs)
    for follower in _followers:
        if (listener := follower.listeners.get(id(module))) is not None:
            listener(args, kwargs, output)
    return output


def _calls_forward_alone(module: Module) -> bool:
    """Whether torch's own `__call__` would do nothing but call a module's `forward`."""
    before = module._forward_pre_hooks or module._backward_pre_hooks
    after = module._forward_hooks or module._backward_hooks
    is_other = module._compiled_call_impl is not None or torch._C._get_tracing_state()
    is_other = is_other or _has_any_global_hook()  # type: ignore[no-untyped-call]
    return _usual is _torchs and not (before or after or is_other)


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


@contextmanager
def _forward_once(module: Module, answer: Answer) -> Iterator[None]:
    names = vars(module)
    own = {"forward": names["forward"]} if "forward" in names else {}

    def put_back() -> None:
        names.pop("forward", None)
        names.update(own)

    def forward(*args: Any, **kwargs: Any) -> Any:
        put_back()
        with answered_by(None):
            return answer(module, args, kwargs)

    names["forward"] = forward
    try:
        yield
    finally:
        if names.get("forward") is forward:  # it was not come to: a hook has failed, say
            put_back()
