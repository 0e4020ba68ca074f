"""A disk that fills up while a stage runs: one line, and nothing made before is lost or cut off.

Long, since each stage runs several times; tests/unit/scripts/test_faults.py tries the
writers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mounts import mounted, room_left
from pipeline.project import STAGES, FirstRun, Project

ROOM = "256m"
LEFT = (0, 32, 128, 256, 384, 512)  # kB; DVC's state alone takes some 100

TOLD = "{}: the disk is full", "{}: DVC's own state: disk I/O error; check room"  # SQLite's words


@pytest.fixture
def on_small_disk(first_run: FirstRun, tmp_path: Path) -> Iterator[Project]:
    """A copy of the reproduced project, on a disk of its own."""
    with mounted(tmp_path / "disk", ROOM) as folder:
        yield first_run.project.copy(folder)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_on_a_full_disk(on_small_disk: Project, name: str) -> None:
    project, failures = on_small_disk, 0
    expected = project.content("data", "models")
    for left in LEFT:
        with room_left(project.root.parent, left << 10):
            done = project.stage(name)
        if done.returncode:
            failures += 1
            assert done.returncode == 1, done.stderr
            last = done.stderr.splitlines()[-1]
            assert last.startswith(tuple(words.format(name) for words in TOLD)), done.stderr
            assert "Traceback" not in done.stderr
        found = project.content("data", "models")
        assert {path: found.get(path) for path in expected} == expected
    assert failures, "the disk was never full"
    project.must_stage(name)
    assert project.content("data", "models") == expected
