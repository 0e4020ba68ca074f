"""Progress for grep: one line a log interval on standard error, beside tqdm's bars for eyes."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

logger = logging.getLogger("pose")


def log(line: str) -> None:
    """Send one line through the logger, above any bar."""
    logger.info(line)


class BarSafeHandler(logging.Handler):
    """Writes records to standard error without tearing a running bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class StepClock:
    """Formats `train_phase2 step 1200/42000 | loss 0.00123 | lr 3.0e-04 | 812 img/s | eta 41m`."""

    def __init__(self, name: str, start: int, stop: int, batch_size: int) -> None:
        self.name, self.stop, self.batch_size = name, stop, batch_size
        self._step, self._time = start, time.monotonic()

    def line(self, row: dict[str, float]) -> str:
        """The log line of a row; its rate covers the steps since the last line."""
        now, step = time.monotonic(), int(row["step"])
        rate = (step - self._step) / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        values = " | ".join(f"{k} {v:.3e}" for k, v in row.items() if k != "step")
        eta = (self.stop - step) / max(rate, 1e-9)
        speed = f"{rate * self.batch_size:.0f} img/s | eta {eta / 60:.0f}m{eta % 60:02.0f}s"
        return f"{self.name} step {step}/{self.stop} | {values} | {speed}"
