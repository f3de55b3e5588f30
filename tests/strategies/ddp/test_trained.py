"""What is trained is followed, and ranks whose weights have parted are noticed."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_app.strategies.ddp.trained import TrainedParameters, check_ranks_agree
from tests.ranks import run_ranks


def test_other_parameters_are_noticed() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    trained = TrainedParameters(module)
    assert not trained.have_changed({*module.parameters()})
    module[0].requires_grad_(False)
    assert trained.have_changed()
    assert not trained.have_changed()
    module[0].requires_grad_(True)
    assert trained.have_changed()
    module.append(nn.Linear(2, 2))
    assert not trained.have_changed()  # not looked for
    assert trained.have_changed({*module.parameters()})
    assert not trained.have_changed({*module.parameters()})
    module[1] = nn.Linear(2, 2)  # as many as before
    assert trained.have_changed({*module.parameters()})


def test_what_is_frozen_may_stay_where_unused_parameters_are_found() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    trained = TrainedParameters(module, finds_unused=True)
    module[0].requires_grad_(False)
    assert not trained.have_changed({*module.parameters()})
    trained.check()
    module[1].weight.requires_grad_(True)
    with pytest.raises(MisconfigurationException, match=r"1\.weight is unfrozen"):
        trained.check()
    assert trained.have_changed()
    trained.check()


CASES = ["alike", "another weight", "NaN", "no parameters", "left out", "a buffer", "frozen"]


def check(case: str) -> str:
    """What the ranks are told, or learn, of a module that the second one has changed."""
    torch.manual_seed(1)
    module: Any = nn.BatchNorm1d(3) if case == "a buffer" else nn.Linear(3, 1)
    if case == "no parameters":
        module = nn.Tanh()
    if case == "left out":
        module._ddp_params_and_buffers_to_ignore = ["weight"]
    if case == "NaN":  # which equals nothing, itself not even
        module.weight.data.fill_(torch.nan)
    elif dist.get_rank() == 1 and case not in ("alike", "no parameters"):
        changed = module.running_mean if case == "a buffer" else module.weight.data
        changed += 1e-6
    if case == "frozen":
        module.requires_grad_(False)
    try:
        return ", ".join(check_ranks_agree(module))
    except MisconfigurationException as error:
        return str(error)


def check_all() -> list[str]:
    dist.init_process_group("gloo")
    return [check(case) for case in CASES]


def test_ranks_whose_weights_have_parted_are_noticed() -> None:
    for told in run_ranks(check_all, 2):
        by_case = dict(zip(CASES, told, strict=True))
        message = by_case.pop("another weight")
        assert message.startswith(
            "the ranks' weights are no longer the same: weight differs between rank 0 and rank 1"
        )
        assert message.endswith(", or do the ranks' GPUs or CPUs differ?")
        assert by_case.pop("frozen") == "weight"
        assert set(by_case.values()) == {""}
