"""Log lines on standard error, one per log interval, that do not break tqdm's progress bars."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
FIRST_SECONDS, LOG_SECONDS = 30.0, 60.0  # to the first line of Progress, and between its lines
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


class Progress:
    """A progress bar on a terminal; elsewhere, as in a batch job's log, a log line a minute.

    A line is `crops of train: 31% (128 of 412), 0.71/s, eta 6m40s`, with the rate since the line
    before. The first one comes after 30 s. done: the amount at the start, of total. quiet: neither
    bar nor lines, as in all processes but the first. options are tqdm's.
    """

    def __init__(
        self, name: str, total: int | None, done: int = 0, quiet: bool = False, **options: Any
    ) -> None:
        disable = True if quiet else None  # None: draw a bar only on a terminal
        self._bar = tqdm(desc=name, total=total, initial=done, disable=disable, **options)
        self._logs = self._bar.disable and not quiet
        self._unit = options.get("unit", "")
        self.name, self.total, self.done = name, total, done
        self._done, self._time = done, time.monotonic()  # at the line before
        self._due = self._time + FIRST_SECONDS

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, n: int = 1) -> None:
        """Count n more as done."""
        self._bar.update(n)
        self.done += n
        if self._logs and (now := time.monotonic()) >= self._due:
            log(self._line(now))  # not in a method that tqdm calls: log needs tqdm's lock
            self._done, self._time, self._due = self.done, now, now + LOG_SECONDS

    def _line(self, now: float) -> str:
        rate = max(self.done - self._done, 1e-9) / max(now - self._time, 1e-9)
        done, speed = self._amount(self.done), f"{tqdm.format_sizeof(rate, self._unit)}/s"
        if not self.total:
            return f"{self.name}: {done}, {speed}"
        share = f"{self.done / self.total:.0%} ({done} of {self._amount(self.total)})"
        left = f"eta {duration(max(self.total - self.done, 0) / rate)}"
        return f"{self.name}: {share}, {speed}, {left}"

    def _amount(self, count: int) -> str:
        return tqdm.format_sizeof(count, self._unit) if self._unit else f"{count:,}"


def progress(
    items: Iterable[T], name: str, total: int | None = None, quiet: bool = False, **options: Any
) -> Iterator[T]:
    """Yield the items with a Progress; total: their number, if they do not know it."""
    total = total or length_hint(items) or None
    with Progress(name, total, quiet=quiet, **options) as bar:
        for item in items:
            yield item
            bar.update()


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
