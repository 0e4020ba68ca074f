"""One project that has been reproduced once, and copies of it for tests that change things."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.project import FirstRun, Project, new_project


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    """Read only; the fixture `project` may be changed."""
    project = new_project(tmp_path_factory.mktemp("first"))
    output = project.must("dvc", "repro")
    changed = project.changed()
    ignored = project.changed("--ignored=matching") - changed
    project.commit("reproduced")
    return FirstRun(project, output, changed, ignored)


@pytest.fixture
def project(first_run: FirstRun, tmp_path: Path) -> Project:
    """A copy of the reproduced project, with its data and dvc cache."""
    return first_run.project.copy(tmp_path)
