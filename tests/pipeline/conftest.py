"""One project that has been reproduced once, and copies of it for tests that change things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.project import FirstRun, Project, new_project


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> FirstRun:
    """Read only; the fixture `project` may be changed. All of pytest's processes share one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "first"
    notes = folder / "notes.json"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not notes.exists():
            notes.write_text(json.dumps(_reproduced(folder)))
    root, output, changed, ignored = json.loads(notes.read_text())
    return FirstRun(Project(Path(root)), output, set(changed), set(ignored), folder)


def _reproduced(folder: Path) -> list[object]:
    project = new_project(folder)
    project.notes = folder
    output = project.must("dvc", "repro")
    changed = project.changed()
    ignored = project.changed("--ignored=matching") - changed
    project.commit("reproduced")
    return [str(project.root), output, sorted(changed), sorted(ignored)]


@pytest.fixture
def project(first_run: FirstRun, tmp_path: Path) -> Project:
    """A copy of the reproduced project, with its data and dvc cache."""
    return first_run.project.copy(tmp_path)
