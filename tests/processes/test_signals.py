"""Whose a signal is."""

import signal

from lightning.pytorch.trainer.connectors.signal_connector import _HandlersCompose

from lightning_app.processes.signals import _is_ours, stop_at_once


def test_a_handler_of_this_project_is_known_within_lightnings() -> None:
    def of_the_user(signum: int, frame: object) -> None: ...

    assert _is_ours(stop_at_once)
    assert _is_ours(_HandlersCompose([of_the_user, stop_at_once]))
    for other in (of_the_user, signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None):
        assert not _is_ours(other)
