"""argv → Trainer, model and data; `lightning_app.cli.main` runs a command line."""

from lightning_app.cli.command_line import CommandLine
from lightning_app.cli.program import main

__all__ = ["CommandLine", "main"]
