"""The table of benchmarks/contention.py: ratios of a pair, and parts of the fair share."""

from __future__ import annotations

import psutil
import pytest

from contention import Pair, Speed, busy, fair_share, to_markdown


@pytest.mark.parametrize(
    ("count", "threads", "cores", "expected"),
    [(0, 2, 2, 1.0), (2, 2, 2, 0.5), (1, 2, 4, 1.0), (4, 4, 2, 0.5), (1, 1, 1, 0.5)],
)
def test_fair_share(count: int, threads: int, cores: int, expected: float) -> None:
    assert fair_share(count, threads, cores) == expected


def test_a_row_compares_within_pairs_and_with_our_speed_beside_none() -> None:
    def pair(shipped: float, ours: float) -> Pair:
        return Pair(Speed(shipped, 2.0), Speed(ours, 3.0))

    results = {2: [pair(1, 4), pair(2, 6), pair(3, 3)], 0: [pair(8, 10)]}
    text = to_markdown(results, 2, 2, "python x")
    assert "`python x`" in text
    idle, beside = text.splitlines()[-2:]
    assert idle == "| 0 | 1.25 (1.25 to 1.25) | 1.50 (1.50 to 1.50) | 0.80 | 1.00 |"
    assert beside == "| 2 | 3.00 (1.00 to 4.00) | 1.50 (1.50 to 1.50) | 0.40 | 0.80 |"


def test_busy_processes_end_with_the_block() -> None:
    others = set(psutil.Process().children())
    with busy(2):
        running = set(psutil.Process().children()) - others
        assert len(running) == 2
    assert not any(child.is_running() for child in running)
