"""Progress for grep: one line a log interval on standard error, beside tqdm's bars for eyes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LATE = 0.2  # share of the time waiting for data from which on a line says what to do
logger = logging.getLogger("pose")


def log(line: str) -> None:
    """Send one line through the logger, above any bar."""
    logger.info(line)


class BarSafeHandler(logging.Handler):
    """Writes records to standard error without tearing a running bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class StepClock:
    """Formats `train_phase2 step 1200/42000 | loss 0.00123 | 812 img/s | data 3 % | eta 41m`.

    data: the share of the time in which training waited for its next batch.
    """

    def __init__(self, name: str, start: int, stop: int, batch_size: int) -> None:
        self.name, self.stop, self.batch_size = name, stop, batch_size
        self._step, self._time, self._waited = start, time.monotonic(), 0.0

    def waiting(self, batches: Iterable[T], busy: Callable[[], bool]) -> Iterator[T]:
        """The batches; but for the first, which the loader starts with, their wait is measured.

        busy() tells whether the device still had work when the batch came: then none was lost.
        """
        began = None
        for batch in batches:
            if began is not None and not busy():
                self._waited += time.monotonic() - began
            yield batch
            began = time.monotonic()

    def line(self, row: dict[str, float]) -> str:
        """The log line of a row; its rate covers the steps since the last line."""
        now, step = time.monotonic(), int(row["step"])
        passed = max(now - self._time, 1e-9)
        rate, late = (step - self._step) / passed, self._waited / passed
        self._step, self._time, self._waited = step, now, 0.0
        values = " | ".join(f"{k} {v:.3e}" for k, v in row.items() if k != "step")
        eta = (self.stop - step) / max(rate, 1e-9)
        hint = " (late: docs/training.md)" if late > LATE else ""
        speed = f"{rate * self.batch_size:.0f} img/s | data {late:.0%}{hint}"
        left = f"eta {eta / 60:.0f}m{eta % 60:02.0f}s"
        return f"{self.name} step {step}/{self.stop} | {values} | {speed} | {left}"
