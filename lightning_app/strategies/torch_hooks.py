"""A module's hooks, run around another function than its `forward`.

torch runs them around `self.forward` alone. To have it call another function, one would have to
write that into the module, and a hook that copies or pickles the module would find it there. So
this does what `torch.nn.Module._call_impl` does, in its order; a test holds both side by side.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.nn.modules import module as torchs
from torch.utils.hooks import BackwardHook

Hook = Callable[..., Any]


def called_with_hooks(
    module: Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a function as a module's forward.

    Args:
        module: Whose hooks run, with all modules' hooks.
        forward: Called in place of its own.
        args: The call's, by position.
        kwargs: Those by name.

    Returns:
        What `module(*args, **kwargs)` would return, were this its forward.
    """
    called, result = set[int](), None
    try:
        full, of_output, before = _backward_hooks(module)
        for number, hook in _before(module):
            args, kwargs = _before_one(module, number, hook, args, kwargs)
        backward = BackwardHook(module, full, before) if full or before else None
        if backward is not None:
            args = backward.setup_input_hook(args)  # type: ignore[no-untyped-call]
        result = forward(*args, **kwargs)
        for number, hook in _after(module):
            called.add(number)
            result = _after_one(module, number, hook, args, kwargs, result)
        if backward is not None:
            if not isinstance(result, (Tensor, tuple)):
                _warn(module, f"its backward hooks miss gradients of a {type(result).__name__}")
            result = backward.setup_output_hook(result)  # type: ignore[no-untyped-call]
        _hear_backward(module, of_output, args, result)
        return result
    except Exception:
        for number, hook in _after(module):
            if number not in called and _is_called_always(module, number):
                try:
                    result = _after_one(module, number, hook, args, kwargs, result)
                except Exception as error:
                    _warn(module, f"after an error, a hook that is always called had one: {error}")
        raise


def _before(module: Module) -> Iterator[tuple[int, Hook]]:
    yield from (*torchs._global_forward_pre_hooks.items(), *module._forward_pre_hooks.items())


def _before_one(
    module: Module, number: int, hook: Hook, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments, as a hook before it makes them."""
    if number in module._forward_pre_hooks_with_kwargs:
        if (both := hook(module, args, kwargs)) is None:
            return args, kwargs
        if not (isinstance(both, tuple) and len(both) == 2):
            raise RuntimeError(
                f"{type(module).__name__}: a forward pre-hook with kwargs is to return None, or "
                f"args and kwargs, and returned {both!r}"
            )
        return both
    if (new := hook(module, args)) is not None:
        args = new if isinstance(new, tuple) else (new,)
    return args, kwargs


def _backward_hooks(module: Module) -> tuple[list[Hook], list[Hook], list[Hook]]:
    """Those of a module's gradients, those of its output's alone, and those before its backward."""
    full, of_output, before = list[Hook](), list[Hook](), list[Hook]()
    if module._backward_hooks or torchs._global_backward_hooks:  # a script has no method for them
        full, of_output = module._get_backward_hooks()  # type: ignore[no-untyped-call]
    if module._backward_pre_hooks or torchs._global_backward_pre_hooks:
        before = module._get_backward_pre_hooks()  # type: ignore[no-untyped-call]
    return full, of_output, before


def _after(module: Module) -> Iterator[tuple[int, Hook]]:
    yield from (*torchs._global_forward_hooks.items(), *module._forward_hooks.items())


def _after_one(
    module: Module,
    number: int,
    hook: Hook,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    result: Any,
) -> Any:
    """A call's result, as a hook after it makes it."""
    all_modules = torchs._global_forward_hooks_with_kwargs
    takes_kwargs = number in module._forward_hooks_with_kwargs or number in all_modules
    new = hook(module, args, kwargs, result) if takes_kwargs else hook(module, args, result)
    return result if new is None else new


def _is_called_always(module: Module, number: int) -> bool:
    all_modules = torchs._global_forward_hooks_always_called
    return number in module._forward_hooks_always_called or number in all_modules


def _hear_backward(module: Module, hooks: list[Hook], args: tuple[Any, ...], result: Any) -> None:
    """Register backward hooks of the old kind, which are of the output's own function."""
    if not hooks:
        return
    output = result
    while not isinstance(output, Tensor):
        is_dict = isinstance(output, dict)
        output = next(v for v in output.values() if isinstance(v, Tensor)) if is_dict else output[0]
    if output.grad_fn is not None:
        for hook in hooks:
            output.grad_fn.register_hook(partial(hook, module))
        module._maybe_warn_non_full_backward_hook(args, result, output.grad_fn)


def _warn(module: Module, what: str) -> None:
    warnings.warn(f"{type(module).__name__}: {what}", stacklevel=4)
