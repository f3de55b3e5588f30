"""What the user got wrong, said in one line: the value, what is allowed, the remedy."""

import re

HELP = "`python train.py --help` lists every flag"


class UsageError(Exception):
    """Something the user got wrong. Its text is the line that is shown."""


def one_line(message: str) -> str:
    """Make one line of an error's text.

    jsonargparse reports a value that fits no type as a tree over many lines, with every type that
    was tried. What is kept of it: the flag, the value, and why it was refused.

    Args:
        message: The text of an exception, of any number of lines.

    Returns:
        The line, without a line break.
    """
    reasons = _reasons(message)
    flag = ".".join(re.findall(r'Parser key "([\w.]+)"', message))
    value = _value(message)
    if reasons is None or ("Parser key" in message and value is None and "Option" not in message):
        line = " ".join(message.split())
    else:
        flag = flag.removeprefix("trainer.")
        subject = f"--{flag}" + (f" {value}" if value is not None else "") if flag else ""
        line = f"{subject}: {reasons}" if subject else reasons
    line = re.sub(r"^argument (?:--[\w.]+\+?/)*?--([\w.]+)(?:/--[\w.]+\+?)*: ", r"--\1: ", line)
    unknown = re.match(r"unrecognized|--[\w.]+: expected|Subcommand", line)
    return f"{line}; {HELP}" if unknown else line


def _reasons(message: str) -> str | None:
    """Why each type refused the value; `None` where the text is no such report."""
    match = re.search(r"Errors:\n(.*?)\n\s*Given value type", message, re.DOTALL)
    if match is None:
        return None
    reasons = [" ".join(reason.split()) for reason in re.split(r"\n?\s*- ", match[1]) if reason]
    reasons = [reason for reason in reasons if "NoneType" not in reason]
    expected = [reason for reason in reasons if reason.startswith("Expected a ")]
    if expected and len(expected) == len(reasons):
        return "it must be " + " or ".join(_type(e.removeprefix("Expected a ")) for e in expected)
    texts = [re.sub(r"Problem with given class_path '[\w.]+': ", "", text) for text in reasons]
    nested = re.search(r"Expected a (.*?)\.? Got value", texts[0])
    if nested:
        return f"it must be {_type(nested[1])}"
    return "; ".join(texts)


def _type(text: str) -> str:
    """`<class 'int'>` → `int`; `typing.Literal['a', 'b']` → `a, b`."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    return re.sub(r"typing\.Literal\[(.*?)\]", r"\1", text).replace("'", "")


def _value(message: str) -> str | None:
    nested = re.search(r"Got value: (.*)", message)
    match = nested or re.search(r"Given value: (?!NestedArg|Namespace)(.*)", message)
    return match[1].strip() if match else None
