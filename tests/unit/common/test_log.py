"""Log lines for grep, on standard error."""

from __future__ import annotations

import logging
import time

import pytest

from pose.common.log import BarSafeHandler, StepClock


def test_a_line_names_step_values_rate_and_time_left(monkeypatch) -> None:
    now = iter([100.0, 110.0, 115.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = StepClock("train_x", start=100, stop=800, batch_size=4)
    assert clock.line({"step": 200.0, "loss": 0.00123, "lr": 3e-4}) == (
        "train_x step 200/800 | loss 1.230e-03 | lr 3.000e-04 | 40 img/s | data 0% | eta 1m00s"
    )
    assert clock.line({"step": 300.0}).endswith("| 80 img/s | data 0% | eta 0m25s")


def test_records_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("pose", logging.INFO, "", 0, "hello", None, None)
    BarSafeHandler().emit(record)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")
