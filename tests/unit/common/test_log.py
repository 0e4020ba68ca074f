"""Log lines for grep, on standard error."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest
import tqdm

from pose.common.log import BarSafeHandler, Progress, StepClock, duration, logger, progress


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list whose only item is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def work(seconds: int, clock: list[float]) -> Iterator[int]:
    """An item a second."""
    for item in range(seconds):
        clock[0] += 1.0
        yield item


def test_without_a_terminal_progress_is_a_line_a_minute(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress(work(200, clock), "x crops", 4000)) == list(range(200))
    assert caplog.messages == [
        "x crops: 1% (30 of 4,000), 1.00/s, eta 1h06m10s",
        "x crops: 2% (90 of 4,000), 1.00/s, eta 1h05m10s",
        "x crops: 4% (150 of 4,000), 1.00/s, eta 1h04m10s",
    ]


def test_the_rate_is_that_since_the_line_before(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """What an earlier run finished goes by in a second and says nothing of the time left."""
    with caplog.at_level(logging.INFO), Progress("x", 2000, done=100) as bar:
        for seconds, count in ((1, 900), (39, 50), (60, 60), (1, 1)):
            clock[0] += seconds
            bar.update(count)
    assert caplog.messages == [
        "x: 52% (1,050 of 2,000), 23.8/s, eta 0m40s",
        "x: 56% (1,110 of 2,000), 1.00/s, eta 14m50s",
    ]


def test_bytes_of_unknown_total(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("x.zip", None, unit="B") as bar:
        clock[0] += 100.0
        bar.update(1_230_000_000)
    assert caplog.messages == ["x.zip: 1.23GB, 12.3MB/s"]


@pytest.mark.parametrize(("quiet", "seconds"), [(True, 1000), (False, 29)])
def test_quiet_or_short_work_logs_nothing(
    quiet: bool, seconds: int, clock: list[float], caplog: pytest.LogCaptureFixture, capsys
) -> None:
    with caplog.at_level(logging.INFO):
        list(progress(work(seconds, clock), "x", quiet=quiet))
    assert not caplog.messages
    assert capsys.readouterr().err == ""


def test_on_a_terminal_progress_is_a_bar(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with caplog.at_level(logging.INFO):
        list(progress(work(100, clock), "x crops", 100))
        list(progress(work(100, clock), "y", quiet=True))
    assert "x crops: 100%" in capsys.readouterr().err
    assert not caplog.messages
    assert not tqdm.tqdm._instances


def test_lines_within_progress_leave_the_lock_of_tqdm_free(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A bar holds it while it draws, and a log line needs it."""
    monkeypatch.setattr(logger, "handlers", [BarSafeHandler()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    for item in progress(work(3, clock), "outer", 3):
        clock[0] += 60.0
        for _ in progress(work(40, clock), f"inner {item}", 40):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("outer: ")]) == 3
    assert len([line for line in lines if line.startswith("inner ")]) == 3
    other = threading.Thread(target=tqdm.tqdm.write, args=("from another thread",), daemon=True)
    other.start()
    other.join(10.0)
    assert not other.is_alive()
