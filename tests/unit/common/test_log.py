"""Log lines for grep, on standard error."""

from __future__ import annotations

import logging
import time

import pytest

from pose.common.log import BarSafeHandler, StepClock, duration


def test_a_line_names_step_values_rate_and_time_left(monkeypatch) -> None:
    now = iter([100.0, 110.0, 115.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = StepClock("train_x", start=100, stop=800, batch_size=4)
    assert clock.line({"step": 200.0, "loss": 0.00123, "lr": 3e-4}) == (
        "train_x step 200/800 | loss 1.230e-03 | lr 3.000e-04 | 40 img/s | data 0% | eta 1m00s"
    )
    # 0.1 s per step, then 0.05: smoothed 0.085, for 500 steps
    assert clock.line({"step": 300.0}).endswith("| 80 img/s | data 0% | eta 0m42s")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0m00s"),
        (59.99, "0m59s"),
        (100.0, "1m40s"),
        (119.6, "1m59s"),
        (3599.9, "59m59s"),
        (3600.0, "1h00m00s"),
        (86_399.0, "23h59m59s"),
        (366 * 3600.0, "366h00m00s"),
    ],
)
def test_durations_are_rounded_down(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_one_slow_interval_does_not_throw_the_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation between two lines takes as long as 100 steps; the ETA grows by 30 %."""
    now = iter([0.0, 100.0, 200.0, 400.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = StepClock("x", start=0, stop=1300, batch_size=1)
    lines = [clock.line({"step": step}) for step in (100.0, 200.0, 300.0)]
    assert [line.split("eta ")[1] for line in lines] == ["20m00s", "18m20s", "21m40s"]


def test_records_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("pose", logging.INFO, "", 0, "hello", None, None)
    BarSafeHandler().emit(record)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")
