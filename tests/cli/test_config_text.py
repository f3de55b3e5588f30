"""How configs are written."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_app.cli import config_text


class Text(str):
    """As the default of Lightning's `Timer(interval)` is."""


def test_text_of_any_class_is_written_as_text_in_configs_alone() -> None:
    config_text.register()
    parser = ArgumentParser()
    parser.add_argument("--interval", default=Text("step"))
    assert parser.dump(parser.parse_args([])) == "interval: step\n"
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--loss", type=Callable[..., Any], default=torch.nn.MSELoss())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the loss has no text: the program leaves it out
        text = parser.dump(parser.parse_args([]))
    assert text == "interval: step\ndevice: cpu\n"
    assert isinstance(parser.parse_string(text).loss, torch.nn.MSELoss)
    with pytest.raises(yaml.representer.RepresenterError):  # as in a program without ours
        yaml.safe_dump(Text("step"))
