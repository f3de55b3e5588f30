"""jsonargparse's trees of reasons become one line: the flag, the value, why."""

import pytest

from lightning_app.errors import one_line

UNION = """Parser key "{key}":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - {reason}
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: {value}"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            UNION.format(key="trainer.max_epochs", reason="Expected a <class 'int'>", value="abc"),
            "--max_epochs abc: it must be int",
        ),
        (
            UNION.format(
                key="data",
                reason="Problem with given class_path 'lightning_app.data.RandomDataModule':\n"
                '        Parser key "batch_size":\n'
                "          Expected a <class 'int'>. Got value: x",
                value="NestedArg(key='batch_size', val='x')",
            ),
            "--data.batch_size x: it must be int",
        ),
        (
            UNION.format(
                key="model",
                reason="Problem with given class_path 'a.b':\n        No module named 'a'",
                value="a.b",
            ),
            "--model a.b: No module named 'a'",
        ),
        (
            UNION.replace('Parser key "{key}":\n  ', "").format(
                reason="batch_size is 0: it must be 1 or more", value="Namespace(batch_size=0)"
            ),
            "batch_size is 0: it must be 1 or more",
        ),
        ("two\n  lines", "two lines"),
        (
            "unrecognized arguments: --x 1",
            "unrecognized arguments: --x 1; `python train.py --help all` lists every flag",
        ),
        (
            "argument --trainer.devices/--trainer.devices+/--devices/--devices+: expected one "
            "argument",
            "--trainer.devices: expected one argument; "
            "`python train.py --help all` lists every flag",
        ),
        (
            UNION.format(
                key="model",
                reason="Problem with given class_path 'a.B':\n        The truth value of an array "
                "with more than one element is ambiguous. Use a.any() or a.all()",
                value="a.B",
            ),
            "--model a.B: one of its arguments has an array for its default, which cannot be "
            "compared with what a command line gives: let it be a list, or None",
        ),
    ],
)
def test_one_line(message: str, line: str) -> None:
    assert one_line(message) == line
