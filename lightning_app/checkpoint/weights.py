"""Whether a file's weights are those of a model; and `--weights_from`, which begins with them."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_app.checkpoint import input as checkpoint_input
from lightning_app.errors import UsageError

_MAKES_LAYERS = ("configure_model", "setup")
_NAMED = 3  # of the weights that differ


def begin_with(trainer: Trainer, model: LightningModule, path: str, trusted: bool) -> None:
    """Load a file's weights, and nothing else, into a model.

    Args:
        trainer: That will train the model; it tells the precision.
        model: As it was made.
        path: Of a checkpoint, or of a `state_dict` that was saved.
        trusted: Whether the file may run code.

    Raises:
        UsageError: There are none in it, or they are of another model.
    """
    name = f"--weights_from {path}"
    saved = checkpoint_input.read("--weights_from", path, trusted)
    if saved is None:
        raise UsageError(f"{name}: it is a folder: name a file")
    if is_overridden("configure_model", model):
        raise UsageError(
            f"{name}: {type(model).__name__} makes its layers in configure_model, after the "
            "weights are loaded: make them in __init__"
        )
    state = checkpoint_input.weights(name, saved)
    if isinstance(trainer.precision_plugin, DoublePrecision):
        model.double()  # Lightning does it later; float64 weights would be rounded
    try:
        model.load_state_dict(state, strict=model.strict_loading)
    except (RuntimeError, TypeError, AttributeError) as error:
        why = _differences(model, state) or " ".join(str(error).split())
        raise UsageError(f"{name}: {_of_another(model)}: {why}") from error


def check_model(path: str, model: LightningModule, saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint's weights that are of another model, before it is loaded.

    A model that has a say in what is loaded, or makes its layers later, is left to the loading.

    Args:
        path: Of the checkpoint, for the message.
        model: As it was made.
        saved: What is in the checkpoint.

    Raises:
        UsageError: They have other names or sizes.
    """
    has_a_say = (
        is_overridden("on_load_checkpoint", model)
        or type(model).load_state_dict is not nn.Module.load_state_dict
        or any(is_overridden(name, model) for name in _MAKES_LAYERS)
    )
    if has_a_say or not model.strict_loading:
        return
    if differences := _differences(model, saved["state_dict"]):
        raise UsageError(f"--ckpt_path {path}: {_of_another(model)}: {differences}")


def _of_another(model: nn.Module) -> str:
    return f"it is of another model than {type(model).__name__}, or of other sizes"


def _loads_its_own_way(module: nn.Module) -> bool:
    """Whether what a module takes is known to itself alone."""
    kind = type(module)
    return (
        kind.state_dict is not nn.Module.state_dict
        or kind._load_from_state_dict is not nn.Module._load_from_state_dict
        or bool(module._load_state_dict_pre_hooks or module._state_dict_hooks)
        or any(map(is_lazy, module.parameters(recurse=False)))
    )


def _differences(model: nn.Module, saved: Mapping[str, Any]) -> str:
    """Names and sizes that differ, in words: the first few."""
    closed = {name for name, part in model.named_modules() if _loads_its_own_way(part)}
    if "" in closed:
        return ""
    inside = tuple(f"{name}." for name in closed)
    own = {key: v for key, v in model.state_dict().items() if not key.startswith(inside)}
    saved = {key: v for key, v in saved.items() if not key.startswith(inside)}
    found = [f"it has no {key}" for key in own if key not in saved]
    found += [f"{key} is not in the model" for key in saved if key not in own]
    for key, value in own.items():
        other = saved.get(key)
        if not isinstance(value, Tensor) or key not in saved:
            continue
        if not isinstance(other, Tensor):
            found.append(f"{key} is a {type(other).__name__}")
        elif other.shape != value.shape:
            found.append(f"{key} is {_size(other)}, not {_size(value)}")
    more = len(found) - _NAMED
    return "; ".join(found[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _size(tensor: Tensor) -> str:
    return str(tuple(tensor.shape)) if tensor.ndim else "a number"
