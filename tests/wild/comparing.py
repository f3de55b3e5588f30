"""Holds a run's results against those of the same files under a plain Trainer."""

import math
import re
from collections.abc import Mapping, Set
from typing import Any

import torch

from tests.wild.case import Case, Ends, Refused, Right, SameOr
from tests.wild.recording import Curves, Result

TOLERANCE = 1e-12
# What is added to a user's run; `hp_metric` is a placeholder of Lightning's own logger.
ADDED = re.compile(
    r"(at_epoch_end/|batch_size/|coverage/|workload/|train/loss(_step)?$|hp_metric$)"
)

OF_THE_LAYOUT = ("batch_size/rank_", "workload/", "at_epoch_end/")


def check(case: Case, layout: str, results: list[Result], plain: Result) -> None:
    """Assert that a run ended as it should.

    Args:
        case: What was run.
        layout: And how.
        results: What each rank ended with.
        plain: What a plain Trainer on one device ends with.
    """
    right = case.right_on(layout)
    if line := _expected_line(right, results):
        check_refused(results, line)
        return
    check_ended(results)
    is_told = isinstance(right, SameOr) and right.line in results[0].stderr
    if isinstance(right, Ends) or is_told:
        return
    several = len(results) > 1
    tolerances = dict.fromkeys(case.in_float32, 1e-6)
    if several:
        tolerances |= dict.fromkeys(case.values_differ, math.inf)
    for rank, result in enumerate(results):
        who = f"rank {rank}: " if several else ""
        assert_close(result.weights, plain.weights, f"{who}weights")
        _assert_metrics(result.metrics, plain.metrics, tolerances, f"{who}callback_metrics")
        _assert_equal(result.modes, plain.modes, f"{who}modes and requires_grad")
        _assert_equal(result.facts, plain.facts, f"{who}the Trainer")
    first = results[0]
    assert first.repeated == [], f"points of curves were logged twice: {first.repeated}"
    _assert_curves(first.curves, plain.curves, tolerances)
    for tag in ("coverage/missing", "coverage/repeated"):
        assert set(first.curves.get(tag, {}).values()) <= {0}, f"{tag}: {first.curves[tag]}"
    if layout in ("one", "gpu"):
        assert_same_trace(first.trace, plain.trace)


def _expected_line(right: Right | None, results: list[Result]) -> str | None:
    """What a refusal has to say; `None` where the run has to end."""
    if isinstance(right, Refused):
        return right.line
    if _is_refused(results):
        return right.or_line if isinstance(right, Ends) else getattr(right, "line", None)
    return None


def _is_refused(results: list[Result]) -> bool:
    """Whether the first rank has refused; another may hear only that its connection has ended."""
    return results[0].status == 2 and all(result.status for result in results)


def check_refused(results: list[Result], line: str) -> None:
    """Assert that all ranks refused, and said so in one line."""
    check_no_error(results)
    assert _is_refused(results), results[0].stderr
    said = [text for text in results[0].stderr.splitlines() if "error:" in text]
    assert len(said) == 1, results[0].stderr
    assert line in said[0], said[0]
    assert all("Traceback" not in result.stderr for result in results)


def check_ended(results: list[Result]) -> None:
    """Assert that all ranks came to their end, with the same weights."""
    check_no_error(results)
    assert [result.status for result in results] == [0] * len(results), results[0].stderr
    for rank, result in enumerate(results[1:], start=1):
        assert_close(result.weights, results[0].weights, f"weights of rank {rank} and 0")


def check_no_error(results: list[Result]) -> None:
    """Assert that no rank ended with a traceback."""
    errors = [f"rank {rank}: {r.error}" for rank, r in enumerate(results) if r.error]
    assert not errors, "\n".join(errors)


def assert_close(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str
) -> None:
    """Assert that two sets of tensors are equal, but for the order of sums."""
    assert weights.keys() == expected.keys(), what
    for name, tensor in expected.items():
        torch.testing.assert_close(
            weights[name],
            tensor,
            rtol=TOLERANCE,
            atol=TOLERANCE,
            equal_nan=True,
            msg=lambda text, name=name: f"{what}: {name}: {text}",  # type: ignore[misc]
        )


def _assert_metrics(
    metrics: dict[str, float], expected: dict[str, float], tolerances: dict[str, float], what: str
) -> None:
    by_rank = {tag for tag, tolerance in tolerances.items() if tolerance == math.inf}
    keys, expected_keys = _tags(metrics, expected), _tags(expected, metrics)
    _assert_same_keys(keys - by_rank, expected_keys - by_rank, what)
    for tag in expected_keys - by_rank:
        value, other = metrics[tag], expected[tag]
        assert is_close(value, other, tolerances.get(tag)), f"{what}: {tag}: {value}, not {other}"


def _assert_curves(curves: Curves, expected: Curves, tolerances: dict[str, float]) -> None:
    tags = _tags(curves, expected)
    _assert_same_keys(tags, _tags(expected, curves), "names of the curves")
    for tag in sorted(tags):
        _assert_same_keys(curves[tag].keys(), expected[tag].keys(), f"steps of the curve {tag}")
        for step, value in expected[tag].items():
            other = curves[tag][step]
            close = is_close(other, value, tolerances.get(tag))
            assert close, f"curve {tag}, step {step}: {other}, not {value}"


def _assert_same_keys(keys: Set[Any], expected: Set[Any], what: str) -> None:
    missing, unexpected = expected - keys, keys - expected
    assert not missing | unexpected, f"{what}: missing {missing}, unexpected {unexpected}"


def _tags(values: Mapping[str, Any], others: Mapping[str, Any]) -> set[str]:
    """Tags, without those that were added; `epoch` comes with every point, added ones too."""
    own = {tag for tag in values if tag in others or not ADDED.match(tag)}
    return {tag for tag in own if not tag.startswith(OF_THE_LAYOUT)} - {"epoch"}


def is_close(value: float, expected: float, tolerance: float | None = None) -> bool:
    """Whether two numbers are equal, but for the order of sums."""
    if tolerance == math.inf or (math.isnan(value) and math.isnan(expected)):
        return True
    tolerance = TOLERANCE if tolerance is None else tolerance
    return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)


def _assert_equal(values: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    for name in {*values, *expected}:
        value, other = values.get(name), expected.get(name)
        assert _same(value, other), f"{what}: {name}: {value}, not {other}"


def _same(value: Any, expected: Any) -> bool:
    if isinstance(expected, tuple) and isinstance(value, tuple):
        return len(value) == len(expected) and all(map(_same, value, expected))
    if isinstance(expected, float) and isinstance(value, float):
        return is_close(value, expected)
    return bool(value == expected)


def assert_same_trace(trace: list[str], expected: list[str]) -> None:
    """Assert that the user's hooks were called alike, and show the first call that was not."""
    for number, (call, other) in enumerate(zip(trace, expected, strict=False)):
        before = "\n  ".join(expected[max(0, number - 3) : number])
        assert call == other, (
            f"call {number} was {call}\nunder a plain Trainer {other}\nafter\n  {before}"
        )
    shared = min(len(trace), len(expected))
    assert len(trace) == len(expected), (
        f"calls at the end: unexpected {trace[shared:][:3]}, missing {expected[shared:][:3]}"
    )
