"""What benchmarks/usage.py measures of a command, its helpers and the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from pose.common.errors import PoseError
from usage import Usage, disk_bytes, measure

HELPER = """
import time, multiprocessing
def work(size):
    block = b"x" * size
    end = time.process_time() + 0.5
    while time.process_time() < end: pass
    time.sleep(1)
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(work, [100_000_000] * 2, chunksize=1)
        pool.close()
        pool.join()
"""


def run(folder: Path, code: str) -> Usage:
    (folder / "script.py").write_text(code)
    return measure([sys.executable, "script.py"], folder, os.environ)


def test_a_process_without_helpers(tmp_path: Path) -> None:
    usage = run(tmp_path, "block = b'x' * 200_000_000\nimport time\ntime.sleep(1)")
    assert usage.helpers == []
    assert 200e6 < usage.first < 300e6
    assert usage.wall > 1 > usage.cpu


def test_memory_and_cpu_of_helpers(tmp_path: Path) -> None:
    usage = run(tmp_path, HELPER)
    assert len(usage.helpers) == 2
    assert all(100e6 < size < 200e6 for size in usage.helpers)
    assert usage.first < 100e6
    assert 1 < usage.cpu < 10


def test_a_failure_is_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match=r"script\.py` exited with 3: the reason$"):
        run(tmp_path, "import sys\nprint('before')\nprint('the reason')\nsys.exit(3)")


def test_an_interrupted_measurement_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> dict[int, int]:
        raise KeyboardInterrupt

    monkeypatch.setattr("usage.own_memory", interrupt)
    others = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "import time\ntime.sleep(60)")
    assert set(psutil.Process().children()) <= others


def test_disk_space_counts_hard_links_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "a").write_bytes(b"x" * 1_000_000)
    alone = disk_bytes(one)
    assert 1_000_000 <= alone < 1_100_000
    os.link(one / "a", other / "b")
    assert disk_bytes(one, other) == alone
    (other / "c").write_bytes(b"x" * 1_000_000)
    assert disk_bytes(one, other) == 2 * alone
