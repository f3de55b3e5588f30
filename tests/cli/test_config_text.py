"""How configs are written."""

import pytest
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
    with pytest.raises(yaml.representer.RepresenterError):  # as in a program without ours
        yaml.safe_dump(Text("step"))
