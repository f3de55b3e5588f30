"""Which GPUs the machine has, which PyTorch can use, and why there are fewer.

``check()`` asks this machine from inside a running program; ``python -m lightning_app.doctor``
prints the whole report. Importing this asks nothing and loads no PyTorch.
"""

from __future__ import annotations

from lightning_app.doctor.diagnose import diagnose, exit_code
from lightning_app.doctor.facts import Facts
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.probe import probe

__all__ = ["Facts", "Finding", "check", "diagnose", "exit_code", "probe"]


def check() -> list[Finding]:
    """Says why this process can use fewer GPUs than the machine has.

    Only here can be seen what changed since CUDA started in the process, so call it in the
    notebook or the training script itself. It takes some seconds, and starts no CUDA in it.

    Returns:
        The findings, the most likely cause first; none if all GPUs can be used.
    """
    return diagnose(probe())
