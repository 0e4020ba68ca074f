"""The first Ctrl-C or SIGTERM is noted, the second one acts as usual."""

from __future__ import annotations

import os
import signal

import pytest

from pose.deploy.interrupt import stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as received:
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_the_second_ctrl_c_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell starts background jobs with SIGINT ignored, so the handler is set here."""
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), stop_signals():  # noqa: PT012  # both signals inside
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_signals():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGTERM) == before
