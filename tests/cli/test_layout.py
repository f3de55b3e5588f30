"""What was asked for is resolved into what there is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_app.cli.layout import Layout, count_devices, parse_devices, resolve


@pytest.mark.parametrize(
    ("devices", "gpus", "accelerator", "got", "strategy"),
    [
        ("auto", 0, "cpu", 1, "single_device"),
        (2, 0, "cpu", 2, "auto"),
        ("0,1,2", 0, "cpu", 3, "auto"),
        (-1, 0, "cpu", 1, "single_device"),
        ("auto", 1, "gpu", 1, "single_device"),
        (2, 1, "gpu", 1, "single_device"),
        (2, 8, "gpu", 2, "auto"),
        ("auto", 8, "gpu", 8, "auto"),
        (-1, 8, "gpu", 8, "auto"),
        ([1, 9], 8, "gpu", [1], "single_device"),
        ([9], 1, "gpu", [0], "single_device"),
    ],
)
def test_auto_takes_what_there_is(
    devices: Any, gpus: int, accelerator: str, got: Any, strategy: str
) -> None:
    layout, warning = resolve(Layout(devices=devices), gpus)
    assert (layout.accelerator, layout.devices, layout.strategy) == (accelerator, got, strategy)
    asked = count_devices(devices)
    less = gpus == 0 or asked != count_devices(got) or devices == [9]
    assert (warning is not None) == (asked is not None and less)


def test_the_warning_tells_what_was_asked_and_found() -> None:
    assert resolve(Layout(devices=2, strategy="ddp"), 1)[1] == (
        "asked for --devices 2, found 1 GPU: running on 1 GPU; "
        "python -m lightning_app.doctor tells why"
    )
    assert resolve(Layout(devices=[9]), 1)[1] == (
        "asked for --devices [9], found 1 GPU: running on GPU 0; "
        "python -m lightning_app.doctor tells why"
    )
    assert resolve(Layout(devices="1,3,9"), 4)[1] == (
        "asked for --devices 1,3,9, found 4 GPUs: running on GPUs 1,3; "
        "python -m lightning_app.doctor tells why"
    )
    assert resolve(Layout(devices=[0, 1]), 0)[1] == (
        "asked for --devices 0,1, found no usable GPU: running on 2 CPU ranks; "
        "python -m lightning_app.doctor tells why"
    )


@pytest.mark.parametrize(("devices", "gpus"), [(1, 0), ("auto", 0), (2, 1), ([0, 3], 2)])
def test_gpus_demanded_by_name_have_to_be_there(devices: Any, gpus: int) -> None:
    with pytest.raises(ValueError, match=rf"PyTorch sees {gpus} GPU"):
        resolve(Layout("gpu", devices), gpus)
    assert resolve(Layout("cpu", devices), gpus)[1] is None


APPLE = "one Apple GPU, which takes one rank"


@pytest.mark.parametrize(
    ("asked", "got", "line"),
    [
        (Layout(), ("mps", 1, "single_device"), None),
        (Layout(devices=-1), ("mps", 1, "single_device"), None),
        (Layout("gpu"), ("gpu", 1, "single_device"), None),
        (Layout("mps", "0,"), ("mps", [0], "single_device"), None),
        (
            Layout(devices=[1]),
            ("mps", [0], "single_device"),
            f"asked for --devices [1], found {APPLE}: running on GPU 0",
        ),
        (
            Layout(devices=2),
            ("cpu", 2, "auto"),
            f"asked for --devices 2, found {APPLE}: running on 2 CPU ranks",
        ),
        (
            Layout(strategy="ddp"),
            ("cpu", 1, "ddp"),
            f"asked for --strategy ddp, found {APPLE} without --strategy: running on 1 CPU rank",
        ),
    ],
)
def test_an_apple_gpu_takes_one_rank(asked: Layout, got: Any, line: str | None) -> None:
    layout, warning = resolve(asked, 0, has_mps=True)
    assert (layout.accelerator, layout.devices, layout.strategy) == got
    assert warning == line


@pytest.mark.parametrize("accelerator", ["gpu", "mps"])
def test_an_apple_gpu_demanded_by_name_is_one(accelerator: str) -> None:
    with pytest.raises(ValueError, match=f"--devices 2: PyTorch sees {APPLE}; `--accelerator"):
        resolve(Layout(accelerator, 2), 0, has_mps=True)


@pytest.mark.parametrize("devices", [0, -2, "", "0", "x", "1,x", "[]", [], [-1], [1, 1], "1.5"])
def test_other_values_are_refused(devices: Any) -> None:
    with pytest.raises(ValueError, match=r"--devices .*: it must be a positive number"):
        parse_devices(devices)


@given(
    st.sampled_from(["auto", "cpu", "gpu", "cuda", "mps"]),
    st.one_of(st.integers(-3, 9), st.lists(st.integers(-1, 9), max_size=4), st.just("auto")),
    st.sampled_from(["auto", "ddp", "dp", "single_device"]),
    st.integers(0, 8),
    st.integers(0, 2),
    st.booleans(),
)
def test_a_layout_or_a_clear_refusal(
    accelerator: str, devices: Any, strategy: str, gpus: int, nodes: int, has_mps: bool
) -> None:
    if accelerator == "mps" and not has_mps:
        return  # Lightning refuses it
    gpus = 0 if has_mps else gpus
    refusal = ""
    try:
        layout, warning = resolve(Layout(accelerator, devices, nodes, strategy), gpus, has_mps)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("--")
        assert "\n" not in refusal
        return
    count = count_devices(layout.devices)
    assert layout.accelerator in ("cpu", "gpu", "cuda", "mps")
    most = 1 if has_mps else gpus
    assert layout.accelerator == "cpu" or (count is not None and 1 <= count <= most)
    assert (count, nodes) == (1, 1) or layout.strategy != "single_device" or strategy != "auto"
    assert warning is None or (APPLE if has_mps else "doctor") in warning
