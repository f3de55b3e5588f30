"""UUIDs and serial numbers leave the facts; what they tell stays."""

from __future__ import annotations

from lightning_app.doctor.facts import Facts, Nvml, NvmlGpu
from lightning_app.doctor.redact import redact


def hidden_value(value: str) -> str:
    gpus = (
        NvmlGpu(uuid="GPU-aa11", serial="12"),
        NvmlGpu(uuid="GPU-aa22", mig_uuids=("MIG-c1", "MIG-c2")),
    )
    facts = Facts(environment={"CUDA_VISIBLE_DEVICES": value, "OTHER": value}, nvml=Nvml(gpus=gpus))
    found = redact(facts)
    assert found.nvml == Nvml(
        gpus=(
            NvmlGpu(uuid="GPU-hidden-0000"),
            NvmlGpu(uuid="GPU-hidden-0001", mig_uuids=("MIG-hidden-0002", "MIG-hidden-0003")),
        )
    )
    assert found.environment is not None
    assert found.environment["OTHER"] == value
    return found.environment["CUDA_VISIBLE_DEVICES"]


def test_names_become_the_stand_ins_of_their_gpus() -> None:
    assert hidden_value("GPU-aa22,GPU-aa11") == "GPU-hidden-0001,GPU-hidden-0000"
    assert hidden_value("GPU-aa2") == "GPU-hidden-0001"
    assert hidden_value("MIG-c2") == "MIG-hidden-0003"
    assert hidden_value("MIG-GPU-aa22/1/0") == "MIG-GPU-hidden-0001/1/0"


def test_names_of_no_gpu_or_several_stay_so() -> None:
    assert hidden_value("GPU-aa,GPU-ee") == "GPU-unlisted-0000,GPU-unlisted-0001"
    assert hidden_value("GPU-ee,GPU-ee") == "GPU-unlisted-0000,GPU-unlisted-0000"


def test_what_names_no_board_is_left_alone() -> None:
    for value in ("0,1", "", "all", "-1"):
        assert hidden_value(value) == value
    assert redact(Facts()) == Facts()
    assert redact(Facts(nvml=Nvml(error="x"))) == Facts(nvml=Nvml(error="x"))
