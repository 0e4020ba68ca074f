"""Ctrl-C and SIGTERM as a request to end after the current frames."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Yield a list, to which the first Ctrl-C or SIGTERM is added instead of ending the program.

    The second one acts as it did outside of the context.
    """
    received: list[signal.Signals] = []
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def receive(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        restore()

    for number in SIGNALS:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()
