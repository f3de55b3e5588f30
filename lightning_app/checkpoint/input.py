"""A checkpoint is input from strangers: it is looked at before a run is started from it.

What no run can begin with is told in one line: a file that is not a checkpoint, holds more than
tensors and numbers, lacks a part, or is of another model. What is in a folder, as strategies write
that save shards, only the strategy knows.
"""

import os
import re
from collections.abc import Mapping
from pickle import UnpicklingError
from types import NoneType
from typing import Any, TypeAlias

import lightning
import torch
from fsspec.core import url_to_fs
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.migration import migrate_checkpoint
from packaging.version import InvalidVersion, Version
from torch import Tensor

from lightning_app.checkpoint.io import is_local, is_whole, load
from lightning_app.errors import UsageError, first_line
from lightning_app.own_part import KEY, own_part

Types: TypeAlias = type | tuple[type, ...]

VERSION = "pytorch-lightning_version"
_TO_TRAIN: dict[str, Types] = {
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
# What this project's part has in it, which a checkpoint of Lightning's has not.
_OWN: dict[str, Types] = {
    "callback_metrics": dict,
    "coverage": list,
    "coverage_names": dict,
    "coverage_planned": Tensor,
    "coverage_uneven": Tensor,
    "epoch_loss": Tensor,
    "epoch_means": list,
    "event_files": dict,
    "gathered_so_far": dict,
    "nothing_pending": bool,
    "plateaus_due": bool,
    "splits": list,
    "switches": dict,
    "trained_by": dict,
    "validated": dict,
    "virtual_ranks": dict,
}
_OF_BEST: dict[str, Types] = {
    "best_model_score": (Tensor, NoneType),
    "best_model_path": str,
    "current_score": (Tensor, NoneType),
    "best_k_models": dict,
    "kth_best_model_path": str,
    "kth_value": Tensor,
    "last_model_path": str,
}  # `ModelCheckpoint`'s state


def read(flag: str, path: str, trusted: bool) -> Any:
    """What is in a file, its tensors on the CPU; of a local one only those are read that are used.

    Args:
        flag: Whose value the path is, as in `--ckpt_path`.
        path: A path, or a URL of any file system that fsspec knows, but for the web.
        trusted: Whether the file may run code.

    Returns:
        What was saved; `None` for a folder.

    Raises:
        UsageError: It is not there, was not written to its end, or holds what may run code.
    """
    name = f"{flag} {path}"
    if re.search(r"\bhttps?://", path):
        raise UsageError(f"{name}: nothing is loaded from the web: download it, and name the file")
    try:
        files, place = url_to_fs(path)
        is_folder = files.isdir(place)
        # A pipe or a device might be read for ever.
        is_file = os.path.isfile(place) if is_local(path) else files.isfile(place)
        exists = is_folder or is_file or files.exists(place)
        is_sound = is_whole(path) if is_folder or _is_archive(path, is_file) else is_file
    except Exception as error:  # any file system has its own
        raise UsageError(f"{name}: {first_line(error)}") from None
    if not exists:
        raise UsageError(f"{name} does not exist: name a .ckpt file, last or best")
    broken = f"{name} is not a whole checkpoint: name a .ckpt file, last or best"
    if not is_sound:
        raise UsageError(broken)
    if is_folder:
        return None
    try:
        return load(path, weights_only=not trusted, in_place=True)
    except UnpicklingError as error:
        raise UsageError(about_objects(name, error) or broken) from None
    except (AttributeError, ImportError) as error:  # a class that is not there
        raise UsageError(f"{name}: {first_line(error)}") from None
    except Exception:  # a broken file may raise anything
        raise UsageError(broken) from None


def _is_archive(path: str, is_file: bool) -> bool:
    """Whether it is a local archive, and not what torch wrote before 1.6: that has no checksums."""
    if not is_file or not is_local(path):
        return False
    with url_to_fs(path)[0].open(path, "rb") as file:
        return bool(file.read(2) == b"PK")


def about_objects(name: str, error: UnpicklingError) -> str | None:
    """That a file holds more than `weights_only=True` takes, in words; `None` if that is not it."""
    unknown = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
    return unknown and (
        f"{name}: it holds {unknown[1]}, and such objects can run code when they are loaded: if "
        "you trust the file, add --weights_only false"
    )


def weights(name: str, saved: Any) -> dict[str, Any]:
    """The weights in a checkpoint, or in a file of weights alone.

    Raises:
        UsageError: There are none.
    """
    state = saved.get("state_dict", saved) if isinstance(saved, dict) else saved
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise UsageError(f"{name}: it has no weights by name (a `state_dict`)")
    return state


def read_checkpoint(path: str, trusted: bool, to_train: bool) -> Any:
    """What is in a checkpoint that a run begins with; `None` for a folder.

    Args:
        path: As for `read`.
        trusted: Whether the file may run code.
        to_train: Whether training is to be continued, and not only its weights be used.

    Raises:
        UsageError: It cannot be read, lacks a part, or has something else in its place.
    """
    saved = read("--ckpt_path", path, trusted)
    if saved is not None:
        _check_parts(path, saved, to_train)
    return saved


def _check_coverage(name: str, saved: Any, remedy: str) -> None:
    parts = {key: _OWN[key] for key in ("coverage_planned", "coverage_uneven", "coverage_names")}
    _check_types(name, saved, parts, remedy)
    planned, uneven, names = (saved[key] for key in parts)
    is_sound = planned.shape == (3,) and planned.dtype == torch.int64
    is_sound &= uneven.ndim == 1 and uneven.dtype == torch.int32
    if not is_sound or not all(isinstance(count, int) for count in names.values()):
        raise UsageError(f"{name}: its coverage does not tell numbers of samples; {remedy}")


def _check_parts(path: str, saved: Any, to_train: bool) -> None:
    """Raises an error for what is missing; older forms of Lightning's are made new."""
    name, remedy = f"--ckpt_path {path}", f"to use only its weights: --weights_from {path}"
    if not isinstance(saved, dict):
        raise UsageError(f"{name}: it holds a {type(saved).__name__}, not a checkpoint")
    if "state_dict" not in saved and saved and all(isinstance(v, Tensor) for v in saved.values()):
        raise UsageError(f"{name}: it holds only weights, not a run: {remedy}")
    _check_types(name, saved, {"state_dict": dict}, "name another checkpoint")
    _check_types(name, saved, {VERSION: str}, remedy)
    try:
        version = Version(saved[VERSION])
    except InvalidVersion:
        raise UsageError(f"{name}: its {VERSION} is {saved[VERSION]!r}; {remedy}") from None
    _check_types(name, saved, {KEY: dict} if KEY in saved else {}, remedy)
    _check_own_part(name, own_part(saved), remedy)  # callbacks take it up whatever is run
    if not to_train:
        return
    if version.release[:2] > (installed := Version(lightning.__version__)).release[:2]:
        raise UsageError(
            f"{name}: it was saved by Lightning {version}, and this is {installed}: upgrade, or "
            f"{remedy}"
        )
    if "optimizer_states" not in saved:
        raise UsageError(f"{name}: it holds only a model's weights, not a run: {remedy}")
    try:
        migrate_checkpoint(saved)
    except Exception as error:  # it looks into parts that may be missing
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{name}: not as Lightning {version} saves it ({why}); {remedy}") from None
    _check_types(name, saved, _TO_TRAIN, remedy)
    _check_types(name, saved["loops"], {"fit_loop": dict}, remedy)
    loaders = saved["loops"]["fit_loop"].get("state_dict")
    if isinstance(loaders, dict) and "combined_loader" in loaders:
        _check_types(name, loaders, {"combined_loader": list}, remedy)
    for state in saved["callbacks"].values():
        if isinstance(state, dict) and "best_k_models" in state:
            _check_types(name, state, {k: v for k, v in _OF_BEST.items() if k in state}, remedy)


def _check_own_part(name: str, own: dict[str, Any], remedy: str) -> None:
    known = {key: kind for key, kind in _OWN.items() if own.get(key) is not None}
    _check_types(name, own, known, remedy)
    if "coverage_planned" in known:
        _check_coverage(name, own, remedy)
    kinds: dict[str, Types]
    if "switches" in known:
        kinds = dict.fromkeys(("frozen", *own["switches"]), list)
        _check_types(name, own["switches"], kinds, remedy)
    if "trained_by" in known:
        kinds = {"optimizers": list, "lr_schedulers": list}
        _check_types(name, own["trained_by"], kinds, remedy)
    if "validated" in known:
        _check_types(name, own["validated"], dict.fromkeys(own["validated"], int), remedy)
    if "epoch_loss" in known and own["epoch_loss"].shape != (2,):
        raise UsageError(f"{name}: its 'epoch_loss' is not a sum and a weight; {remedy}")


def _check_types(name: str, saved: Mapping[str, Any], kinds: dict[str, Types], remedy: str) -> None:
    for key, kind in kinds.items():
        wanted = kind[0] if isinstance(kind, tuple) else kind
        if key not in saved:
            raise UsageError(f"{name}: it has no {key!r}: {remedy}")
        if not isinstance(saved[key], kind):
            found = type(saved[key]).__name__
            raise UsageError(
                f"{name}: its {key!r} is of type {found}, not {wanted.__name__}: {remedy}"
            )


def check_progress(path: str, saved: Any, trainer: Trainer) -> None:
    """Refuse loop progress of another shape than a run's own.

    Args:
        path: Of the checkpoint, for the message.
        saved: What it holds, that `read_checkpoint` gave.
        trainer: Of the run that is about to begin.

    Raises:
        UsageError: What should be a count is none.
    """
    own = trainer.fit_loop.state_dict()
    version = saved.get("legacy_pytorch-lightning_version", saved[VERSION])
    is_same = Version(version).release[:2] == Version(lightning.__version__).release[:2]
    if wrong := _first_unlike(saved["loops"]["fit_loop"], own, "progress", is_same):
        raise UsageError(
            f"--ckpt_path {path}: {wrong}: to use only its weights: --weights_from {path}"
        )


def _first_unlike(saved: Any, own: Any, where: str, is_same: bool) -> str | None:
    """What is not as it should be, in words; other versions of Lightning lack some counts."""
    if isinstance(own, dict):
        if not isinstance(saved, dict):
            return f"its {where} is of type {type(saved).__name__}, not dict"
        if is_same and (missing := own.keys() - saved.keys()):
            return f"its {where} has no {min(missing)}"
        shared = own.keys() & saved.keys()
        found = (_first_unlike(saved[k], own[k], f"{where}.{k}", is_same) for k in sorted(shared))
        return next(filter(None, found), None)
    if isinstance(own, int) and (type(saved) is not type(own) or saved < 0):
        kind = "true or false" if isinstance(own, bool) else "a count"
        return f"its {where} is {saved!r:.60}, not {kind}"
    return None
