"""What is installed is what pyproject.toml allows; constraints.txt pins all of it."""

import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = "lightning-any-devices"
REFUSED = {"lightning": ("2.6.2", "2.6.3"), "tensorboard": ("2.20.0",)}


def _constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    return {canonicalize_name(pin.name): Version(str(pin.specifier)[2:]) for pin in pins}


def _requires(name: str, extras: Iterable[str]) -> list[Requirement]:
    """What a package needs here, with some of its extras."""
    found = map(Requirement, distribution(name).requires or ())
    names = ("", *extras)
    return [r for r in found if not r.marker or any(r.marker.evaluate({"extra": e}) for e in names)]


def _closure() -> list[tuple[str, Requirement]]:
    """All that the project and its tests need, and who needs it."""
    result, todo, seen = [], [(PROJECT, frozenset({"test"}))], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for needed in _requires(name, extras):
            result.append((name, needed))
            todo.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return result


def _problems(needs: list[tuple[str, Requirement]], found: Callable[[str], str]) -> list[str]:
    """Requirements that are not met, in words."""
    problems = []
    for who, needed in needs:
        try:
            there = found(needed.name)
        except PackageNotFoundError:
            problems.append(f"{who} needs {needed}, which is not installed")
            continue
        # A build's local name, as in 2.13.0+cpu, is of the same version.
        if not needed.specifier.contains(Version(there).public, prereleases=True):
            problems.append(f"{who} needs {needed}, and there is {there}")
    return problems


def test_what_is_installed_is_what_is_needed() -> None:
    assert _problems(_closure(), version) == []


def test_a_wrong_version_would_be_told() -> None:
    needs = [("a", Requirement("torch>=99")), ("b", Requirement("no-such-package-of-ours"))]
    assert len(_problems(needs, version)) == 2


@pytest.mark.parametrize("package", REFUSED)
def test_refused_versions(package: str) -> None:
    needs = [Requirement(r) for r in distribution(PROJECT).requires or ()]
    (own,) = (r for r in needs if r.name == package)
    assert not any(own.specifier.contains(refused) for refused in REFUSED[package])
    assert version(package) not in REFUSED[package]
    assert str(_constraints()[package]) not in REFUSED[package]


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info[:2] != (3, 11),
    reason="other systems and versions of Python need other packages",
)
def test_constraints_pin_all_that_is_needed() -> None:
    pins, needs = _constraints(), _closure()
    missing = {canonicalize_name(needed.name) for _, needed in needs} - pins.keys()
    assert not missing
    assert _problems(needs, lambda name: str(pins[canonicalize_name(name)])) == []
