"""docs/registry.md typed in a small repository that has the artifacts of dvc.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.project import ROOT, Project, ran

PAGE = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?ms)^```bash\n(.*?)^```$", PAGE)
(IN_PYTHON,) = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)
WEIGHTS = "models/ssl.safetensors"
STAGE = {"train_ssl": {"cmd": f"echo weights > {WEIGHTS}", "outs": [WEIGHTS]}}


@dataclass(frozen=True)
class Registry:
    """What the first block printed, and the folder that the second one filled."""

    project: Project
    dry_run: str
    shown: str
    taken: Path


def write_dvc_yaml(project: Project, **sections: object) -> None:
    YAML(typ="safe", pure=True).dump(sections, project.root / "dvc.yaml")


def new_repository(folder: Path) -> Project:
    """Git and DVC with one stage that has run, a folder as remote and a bare clone as origin."""
    project = Project(folder / "a project" / "pose")
    (project.root / "models").mkdir(parents=True)
    project.must("git", "init", "--quiet", "--initial-branch", "main")
    project.must("git", "config", "user.name", "test")
    project.must("git", "config", "user.email", "test@example.org")
    project.must("dvc", "init", "--quiet")
    project.must("dvc", "remote", "add", "--default", "lab", str(folder / "remote"))
    write_dvc_yaml(project, stages=STAGE)
    project.must("dvc", "repro")
    return project


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    project = new_repository(tmp_path_factory.mktemp("registry"))
    artifacts = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["artifacts"]
    write_dvc_yaml(project, stages=STAGE, artifacts=artifacts)
    dry_run = project.must("dvc", "repro", "--dry")
    project.commit("a model")
    hub = str(project.root.parent / "hub.git")
    project.must("git", "clone", "--quiet", "--bare", ".", hub)
    project.must("git", "remote", "add", "origin", hub)
    shown = project.must("bash", "-euo", "pipefail", "-c", BLOCKS[0])
    project.must("bash", "-euo", "pipefail", "-c", BLOCKS[1])
    return Registry(project, dry_run, shown, project.root.parent)


def test_artifacts_change_no_stage(registry: Registry) -> None:
    assert ran(registry.dry_run) == []
    assert "up to date" in registry.dry_run


def test_the_artifact_is_the_last_model_of_the_pipeline() -> None:
    definition = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    assert definition["artifacts"]["pose"]["path"] == WEIGHTS
    assert WEIGHTS in definition["stages"]["train_ssl"]["outs"]


def test_the_page_shows_what_gto_prints(registry: Registry) -> None:
    (table,) = re.findall(r"(?ms)^```text\n(.*?)^```$", PAGE)
    assert table in registry.shown


def test_a_version_is_a_tag_of_the_commit(registry: Registry) -> None:
    tags = registry.project.must("git", "ls-remote", "--tags", "origin")
    assert "refs/tags/pose@v0.0.1" in tags
    assert "refs/tags/pose#prod#1" in tags


@pytest.mark.parametrize(
    "name",
    ["v0.0.1.safetensors", "prod.safetensors", "by_tag.safetensors", "product/ssl.safetensors"],
)
def test_the_weights_are_taken(registry: Registry, name: str) -> None:
    assert (registry.taken / name).read_text() == "weights\n"


def test_an_import_records_the_version(registry: Registry) -> None:
    recorded = YAML(typ="safe", pure=True).load(registry.taken / "product/ssl.safetensors.dvc")
    assert recorded["deps"][0]["repo"]["rev"] == "pose@v0.0.1"
    assert recorded["deps"][0]["path"] == WEIGHTS


def test_in_python(registry: Registry) -> None:
    hub = str(registry.project.root.parent / "hub.git")
    code = f"REPO = {hub!r}\n{IN_PYTHON}\nprint(weights)"
    assert registry.project.must("python", "-c", code) == "b'weights\\n'\n"
