"""`--print_completion bash | zsh | tcsh`: the script by which a shell completes flags."""

from importlib.util import find_spec

from lightning.pytorch.cli import LightningArgumentParser

from lightning_app.command import INSTALLED
from lightning_app.errors import UsageError

SHELLS = ("bash", "zsh", "tcsh")


def print_completion(parser: LightningArgumentParser, shell: str) -> None:
    """Print a shell's completion script for the installed command, made by shtab.

    Raises:
        UsageError: The shell is another, or shtab is not installed.
    """
    if shell not in SHELLS:
        raise UsageError(f"--print_completion {shell}: it must be one of {', '.join(SHELLS)}")
    if find_spec("shtab") is None:
        raise UsageError("--print_completion: it needs shtab; `pip install shtab`")
    parser.prog = INSTALLED
    print(parser.get_completion_script(f"shtab-{shell}"))
