"""What in a checkpoint cannot be loaded again without trust in who wrote it, found as it is saved.

Checkpoints are loaded with `weights_only=True`, which takes tensors, numbers, strings and what
collects them. A model may save other values, and would find out only when the run is continued.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch.serialization import get_unsafe_globals_in_checkpoint


def what_is_refused(path: Path) -> list[str]:
    """The keys of a checkpoint under which something is that `weights_only=True` refuses.

    Reads the structure alone: neither the tensors nor any class of the file's.

    Args:
        path: An archive that `torch.save` wrote.

    Returns:
        For each key its name and those of the kinds of values, as in `classes (numpy.dtype)`.
    """
    if not (unsafe := set(get_unsafe_globals_in_checkpoint(str(path)))):
        return []
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        with archive.open(name) as file:
            checkpoint = _Outline(file, unsafe).load()
    found = {key: sorted(_stand_ins(value)) for key, value in checkpoint.items()}
    return [f"{key} ({', '.join(kinds)})" for key, kinds in found.items() if kinds]


class _StandIn:
    """Takes the place of an object whose class is not looked up."""

    kind = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """A list's items come one by one, or many."""

    def extend(self, values: Any) -> None:
        """See `append`."""


class _Outline(pickle._Unpickler):
    """Reads what holds what; of all classes only those of collections."""

    def __init__(self, file: Any, unsafe: set[str]) -> None:
        super().__init__(file)
        self._unsafe = unsafe

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in, but for an ordered dictionary."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        path = f"{module}.{name}"
        return type(name, (_StandIn,), {"kind": path if path in self._unsafe else ""})

    def persistent_load(self, pid: Any) -> Any:
        """A tensor's storage."""
        return None


def _stand_ins(value: Any) -> set[str]:
    """The kinds of refused objects somewhere in a value."""
    if isinstance(value, _StandIn):
        return {value.kind} - {""}
    if isinstance(value, dict):
        return set().union(*map(_stand_ins, value.keys()), *map(_stand_ins, value.values()))
    if isinstance(value, (list, tuple, set)):
        return set().union(*map(_stand_ins, value))
    return {value.kind} - {""} if isinstance(value, type) and issubclass(value, _StandIn) else set()
