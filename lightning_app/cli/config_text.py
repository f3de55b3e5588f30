"""The YAML of configs and flags, read so that it cannot have two meanings, or fill the memory."""

import math
from collections.abc import Hashable
from typing import Any

import torch
import yaml
from jsonargparse import get_loader, set_dumper, set_loader
from jsonargparse.typing import register_type

from lightning_app.limits import CONFIG_CHARS, CONFIG_DEPTH, CONFIG_NODES

_NO_TEXT = "Unable to serialize instance "  # what jsonargparse has in the place of an object
_usual = get_loader("yaml")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """Writes text of any class as text: the default of Lightning's `Timer(interval)`, say."""


_Dumper.add_multi_representer(str, _Dumper.represent_str)


def register() -> None:
    """Have command lines read by `load` and written by `dump`; safe to call twice."""
    set_loader("yaml", load, exceptions=(yaml.YAMLError,))
    set_dumper("yaml", dump)
    register_type(torch.device, fail_already_registered=False)


def dump(data: Any) -> str:
    """Write a config as jsonargparse does, but for objects that no text stands for.

    A run that reads it has them again, as the defaults that they are.
    """
    return str(
        yaml.dump(
            _with_text(data),
            Dumper=_Dumper,
            default_flow_style=False,
            allow_unicode=True,
            sort_keys=False,
        )
    )


def _with_text(data: Any) -> Any:
    if isinstance(data, list):
        return [_with_text(value) for value in data]
    if not isinstance(data, dict):
        return data
    return {k: _with_text(v) for k, v in data.items() if not str(v).startswith(_NO_TEXT)}


def load(text: str) -> Any:
    """Read a YAML text as jsonargparse does.

    Raises:
        YAMLError: It is not YAML, it is too large, it contains itself, or a key comes twice.
    """
    if len(text) > CONFIG_CHARS:
        raise yaml.YAMLError(f"it has {len(text):,} characters: at most {CONFIG_CHARS:,} are read")
    if any(sign in text for sign in ("\n", ":", "*")):  # else it is one value
        _check(text)
    return _usual(text)


def _check(text: str) -> None:
    root = yaml.compose(text, Loader=_Loader)
    if root is not None:
        _count(root, {}, ())


def overflows(text: str) -> bool:
    """Whether it is a number that is larger than any, other than infinity by its name."""
    try:
        return math.isinf(float(text)) and "inf" not in text.lower()
    except ValueError:
        return False


def _count(node: yaml.Node, sizes: dict[int, int], parents: tuple[int, ...]) -> int:
    """How many nodes a node stands for, aliases followed.

    Args:
        node: Of a YAML text.
        sizes: What is known of nodes, by their `id`: each is counted once.
        parents: The `id` of each node that it is in.
    """
    if len(parents) > CONFIG_DEPTH:
        raise yaml.YAMLError(f"it is nested more than {CONFIG_DEPTH} deep")
    if id(node) in parents:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1} contains itself, by an alias")
    if isinstance(node, yaml.ScalarNode) and not _is_quoted(node) and overflows(node.value):
        raise yaml.YAMLError(f"{node.value} is too large a number; infinity is .inf")
    if id(node) not in sizes:
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        inner = (*parents, id(node))
        sizes[id(node)] = 1 + sum(_count(child, sizes, inner) for child in _children(node))
        if sizes[id(node)] > CONFIG_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {CONFIG_NODES:,} values")
    return sizes[id(node)]


def _is_quoted(node: yaml.ScalarNode) -> bool:
    return bool(node.style) and node.style in "'\"|>"


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"{key.value} is set twice, the second time in line {line}")
            seen.add(key.value)
