"""The table of benchmarks/contention.py: speeds as parts of the fair share."""

from __future__ import annotations

import psutil
import pytest

from contention import SPIN_COUNTS, busy, fair_share, to_markdown


@pytest.mark.parametrize(
    ("count", "threads", "cores", "expected"),
    [(0, 2, 2, 1.0), (2, 2, 2, 0.5), (1, 2, 4, 1.0), (4, 4, 2, 0.5), (1, 1, 1, 0.5)],
)
def test_fair_share(count: int, threads: int, cores: int, expected: float) -> None:
    assert fair_share(count, threads, cores) == expected


def test_a_row_has_parts_of_the_fastest_speed_beside_none() -> None:
    idle, beside = [[8.0], [10.0], [9.0]], [[1.0, 4.0, 2.0], [5.0], [2.5]]
    text = to_markdown({2: beside, 0: idle}, 2, 2, "python x")
    assert "`python x`" in text
    assert f"| busy processes | {' | '.join(SPIN_COUNTS)} |\n" in text
    assert text.splitlines()[-2:] == [
        "| 0 | 0.80 (0.80 to 0.80) | 1.00 (1.00 to 1.00) | 0.90 (0.90 to 0.90) |",
        "| 2 | 0.40 (0.20 to 0.80) | 1.00 (1.00 to 1.00) | 0.50 (0.50 to 0.50) |",
    ]


def test_busy_processes_end_with_the_block() -> None:
    others = set(psutil.Process().children())
    with busy(2):
        running = set(psutil.Process().children()) - others
        assert len(running) == 2
    assert not any(child.is_running() for child in running)
