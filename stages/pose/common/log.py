"""Log lines on standard error, one per log interval, that do not break tqdm's progress bars."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
MAX_DATA_WAIT = 0.2  # share of the time; above it the log line refers to docs/training.md
NEWEST_SHARE = 0.3  # of the newest interval in the smoothed duration of a step
logger = logging.getLogger("pose")


def log(line: str) -> None:
    """Log one line, above any progress bar."""
    logger.info(line)


class BarSafeHandler(logging.Handler):
    """Writes records to standard error without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class StepClock:
    """Formats `train_phase2 step 1200/42000 | loss 0.00123 | 812 img/s | data 3 % | eta 41m`.

    img/s: since the previous line. data: share of that time in which training waited for its next
    batch. eta: from the duration of a step, smoothed over the lines.
    """

    def __init__(self, name: str, start: int, stop: int, batch_size: int) -> None:
        self.name, self.stop, self.batch_size = name, stop, batch_size
        self._step, self._time, self._waited = start, time.monotonic(), 0.0
        self._step_seconds: float | None = None

    def measure_wait(self, batches: Iterable[T], busy: Callable[[], bool]) -> Iterator[T]:
        """Yield the batches and measure the wait for each but the first, when the loader starts.

        busy() returns whether the device still has work when a batch arrives: then no time is lost.
        """
        requested = None
        for batch in batches:
            if requested is not None and not busy():
                self._waited += time.monotonic() - requested
            yield batch
            requested = time.monotonic()

    def line(self, row: dict[str, float]) -> str:
        """The log line of a row of metrics, at a later step than the previous line."""
        now, step = time.monotonic(), int(row["step"])
        passed = max(now - self._time, 1e-9)
        rate, waited = (step - self._step) / passed, self._waited / passed
        newest, before = passed / (step - self._step), self._step_seconds
        self._step_seconds = newest if before is None else before + NEWEST_SHARE * (newest - before)
        self._step, self._time, self._waited = step, now, 0.0
        values = " | ".join(f"{k} {v:.3e}" for k, v in row.items() if k != "step")
        hint = " (late: docs/training.md)" if waited > MAX_DATA_WAIT else ""
        speed = f"{rate * self.batch_size:.0f} img/s | data {waited:.0%}{hint}"
        left = f"eta {duration((self.stop - step) * self._step_seconds)}"
        return f"{self.name} step {step}/{self.stop} | {values} | {speed} | {left}"


def duration(seconds: float) -> str:
    """Whole seconds, rounded down, with minutes and hours.

    >>> duration(100), duration(59.9), duration(7322)
    ('1m40s', '0m59s', '2h02m02s')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m{rest:02}s" if hours else f"{minutes}m{rest:02}s"
