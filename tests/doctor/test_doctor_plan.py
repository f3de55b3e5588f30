"""What Lightning picks, and the line that the machine can run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_app.doctor.facts import Build, Facts, Process, TorchGpu, TorchView
from lightning_app.doctor.plan import Line, Pick, lightning_pick, train_line

from .recorded import machine


@pytest.mark.parametrize(
    ("name", "pick", "command"),
    [
        ("healthy-1-gpu", Pick("cuda", 1), "python train.py --devices 1"),
        ("healthy-2-gpus", Pick("cuda", 2), "python train.py --devices 2 --strategy ddp"),
        ("healthy-8-gpus", Pick("cuda", 8), "python train.py --devices 8 --strategy ddp"),
        ("healthy-amd-rocm", Pick("cuda", 1), "python train.py --devices 1"),
        ("healthy-mac", Pick("mps", 1), "python train.py --accelerator mps --devices 1"),
        ("mig", Pick("cuda", 1), "python train.py --devices 1"),
        ("interactive-session", Pick("cuda", 1), "python train.py --devices 2 --strategy ddp"),
        # One of two is taken: Lightning would take both, the line takes the free one.
        ("exclusive-mode", Pick("cuda", 2), "python train.py --devices 1,"),
        ("allocation-failed", Pick("cuda", 2), "python train.py --devices 1"),
        ("gpu-lost", Pick("cuda", 2), "python train.py --devices 1"),
        ("visible-devices-subset", Pick("cuda", 1), "python train.py --devices 1"),
        (
            "healthy-no-gpu",
            Pick("cpu", 1),
            "python train.py --accelerator cpu --devices 2 --strategy ddp",
        ),
        (
            "counted-not-available",
            Pick("cuda", 2),
            "python train.py --accelerator cpu --devices 2 --strategy ddp",
        ),
    ],
)
def test_picks_and_runs(name: str, pick: Pick, command: str) -> None:
    facts = machine(name)
    assert lightning_pick(facts) == pick
    assert train_line(facts).command == command


def test_the_gpus_that_work_are_named_where_they_are_not_the_first() -> None:
    gpus = tuple(TorchGpu(index, allocated=index != 1) for index in range(4))
    facts = Facts(here=TorchView(device_count=4, is_available=True, gpus=gpus))
    assert train_line(facts).command == "python train.py --devices 0,2,3 --strategy ddp"


def test_knowing_nothing_the_cpu_runs() -> None:
    assert lightning_pick(Facts()) == Pick(None, None)
    assert train_line(Facts()) == Line(
        "python train.py --accelerator cpu --devices 1", "no GPU can be used"
    )


def test_nothing_runs_before_pytorch_can_be_imported() -> None:
    assert train_line(machine("torch-not-importable")) == Line(
        "python train.py --accelerator cpu", "once PyTorch can be imported"
    )


def test_a_bad_fork_can_use_no_gpu() -> None:
    facts = replace(machine("healthy-2-gpus"), process=Process(bad_fork=True))
    assert "--accelerator cpu" in train_line(facts).command


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_lightning_itself_picks_the_same(
    count: int, interactive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own connector is the oracle, told the same count."""
    from lightning.pytorch.trainer.connectors import accelerator_connector

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(accelerator_connector, "_IS_INTERACTIVE", interactive)
    monkeypatch.setattr(accelerator_connector, "_select_auto_accelerator", lambda: _auto(count))
    connector = accelerator_connector._AcceleratorConnector(accelerator="auto", devices="auto")
    facts = Facts(
        interactive=interactive, here=TorchView(device_count=count), build=Build(mps=False)
    )
    pick = lightning_pick(facts)
    assert pick.num_devices == len(connector._parallel_devices)
    types = {torch.device(device).type for device in connector._parallel_devices}
    assert types == {pick.accelerator}


def _auto(count: int) -> str:
    """Lightning's choice on a machine without TPU and Metal."""
    return "cuda" if count else "cpu"
