"""What benchmarks/start.py measures."""

from __future__ import annotations

from pathlib import Path

import start


def test_a_cost_is_that_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    idle = start.cost(["-c", ""], tmp_path, 1)
    busy = start.cost(["-c", "import time\nwhile time.process_time() < 0.5: pass"], tmp_path, 1)
    assert 0.4 < busy.seconds - idle.seconds < 2


def test_all_scripts_are_measured() -> None:
    scripts = {path.stem for path in (start.ROOT / "stages").glob("*.py")}
    assert {*start.LATER, *start.OTHERS} == scripts
