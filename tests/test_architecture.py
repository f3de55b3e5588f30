"""The folders import in one direction, and the README's map names every module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lightning_app"
# Each imports from those after it alone, and from itself. What is on one line stands side by side.
LAYERS = [
    ("__main__",),
    ("cli",),
    ("callbacks",),
    ("speed", "telemetry"),
    ("checkpoint",),
    ("strategies",),
    ("processes",),
    ("inside",),
    ("data", "model"),
    ("order", "modules", "hooks", "masking", "own_part", "limits", "errors", "help", "waiting"),
    ("command",),
]
STRATEGIES = [  # likewise, within the folder
    ("virtual",),
    ("ddp", "dp"),
    ("logs", "single_device"),
    ("global_batch",),
    ("checks",),
    ("loaders", "module_calls"),
    ("batch", "torch_hooks"),
]
PRIVATE = re.compile(
    r"(?:trainer|loop|strategy|connector|fetcher|combined|result)[a-z_.]*\._[a-z]"
    r"|from lightning\S* import .*\b_[A-Za-z]"
    r"|(?<!epoch_loop)\.(?:epoch_loop|val_loop)\b"  # in a checkpoint, these are keys
)


def modules(within: str = "") -> Iterator[tuple[Path, str]]:
    """Each module, with the part of the package, or of a folder of it, that it belongs to."""
    folder = PACKAGE / within
    for path in sorted(folder.rglob("*.py")):
        part = path.relative_to(folder).parts[0].removesuffix(".py")
        if part != "__init__":
            yield path, part


def imported(path: Path, package: str = "lightning_app") -> set[str]:
    """The parts of a package that a module imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    inner = (name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}."))
    return {name.split(".")[0] for name in inner}


def test_imports_go_one_way() -> None:
    layer = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    assert {part for _, part in modules()} == {*layer, "doctor"}
    for path, part in modules():
        for other in imported(path) - {part}:
            if part == "doctor":
                assert other in ("errors", "processes", "waiting"), f"{path} imports {other}"
            else:
                assert layer[part] < layer.get(other, -1), f"{path} imports {other}"


def test_strategies_import_one_way() -> None:
    layer = {part: number for number, parts in enumerate(STRATEGIES) for part in parts}
    found = list(modules("strategies"))
    assert {part for _, part in found} == {*layer}
    for path, part in found:
        for other in imported(path, "lightning_app.strategies") & {*layer} - {part}:
            assert layer[part] < layer[other], f"{path} imports {other}"


def test_lightnings_private_names_are_in_one_place() -> None:
    for path, part in modules():
        if part != "inside":
            lines = path.read_text().splitlines()
            own = [line for line in lines if PRIVATE.search(line) and "self._" not in line]
            assert not own, f"{path}: {own}"


def test_the_map_names_every_module_and_no_file_is_long() -> None:
    text = (ROOT / "README.md").read_text()
    code = text[text.index("## The code") :]
    for path, part in modules():
        if part != "doctor" and path.name != "__init__.py":
            assert re.search(rf"\b{re.escape(path.name)}", code), path
        assert len(path.read_text().splitlines()) <= 300, path
