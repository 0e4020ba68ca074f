"""Files of earlier runs by name, with real DVC in a project of one stage."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pose.common.errors import PoseError
from pose.common.files import digest
from pose.pretrained.experiment import FINAL_MODEL, copy_from_run, project_root

DVC_YAML = f"""stages:
  train:
    cmd: mkdir -p models && cp value.txt {FINAL_MODEL}
    deps: [value.txt]
    outs: [{FINAL_MODEL}]
"""


def run(folder: Path, *command: str) -> str:
    command = (sys.executable, "-m", *command) if command[0] == "dvc" else command
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed run of `one`, the experiment `slow` of `two`, and `three` in the tree."""
    folder = tmp_path_factory.mktemp("an experiment")
    run(folder, "git", "init", "-q")
    for key, value in (("name", "test"), ("email", "test@example.org")):
        run(folder, "git", "config", f"user.{key}", value)
    run(folder, "dvc", "init", "-q")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "value.txt").write_text("one")
    run(folder, "git", "add", ".")
    run(folder, "dvc", "repro", "-q")
    run(folder, "git", "add", ".")
    run(folder, "git", "commit", "-qm", "one")
    (folder / "value.txt").write_text("two")
    run(folder, "dvc", "exp", "run", "-q", "--name", "slow")
    (folder / "value.txt").write_text("three")
    run(folder, "dvc", "repro", "-q")
    return folder


@pytest.mark.parametrize(("revision", "content"), [("HEAD", "one"), ("slow", "two")])
def test_the_file_is_that_of_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str, content: str
) -> None:
    monkeypatch.chdir(project)
    path, commit = copy_from_run(FINAL_MODEL, revision, tmp_path / "copies")
    assert path.read_text() == content
    assert path.name == f"{digest(path, 'md5')}.safetensors"
    assert (project / FINAL_MODEL).read_text() == "three"
    assert copy_from_run(FINAL_MODEL, commit, tmp_path / "copies") == (path, commit)
    assert len(list((tmp_path / "copies").iterdir())) == 1


def test_a_copy_that_an_experiment_runs_in_has_the_names_of_its_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = project / ".dvc/tmp/exps/standalone/tmpx"
    inside.mkdir(parents=True, exist_ok=True)
    assert project_root(inside) == project
    assert project_root(project) == project
    monkeypatch.chdir(inside)
    assert copy_from_run(FINAL_MODEL, "slow", tmp_path)[0].read_text() == "two"


@pytest.mark.parametrize(
    ("file", "revision", "message"),
    [
        (FINAL_MODEL, "slwo", "weights.revision = 'slwo', .*no such run; `dvc exp list`"),
        (
            "models/x.safetensors",
            "slow",
            "no such file in dvc.lock; set weights.file to null .models/ssl",
        ),
        ("value.txt", "slow", "that run has no such file in dvc.lock"),
        ("models", "slow", "that run has no such file in dvc.lock"),
    ],
)
def test_what_is_not_there_is_one_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file, revision, message
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(PoseError, match=message) as error:
        copy_from_run(file, revision, tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_dvc_lost_or_changed_is_one_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(copy)
    path, _ = copy_from_run(FINAL_MODEL, "slow", tmp_path / "whole")
    cached = copy / ".dvc/cache/files/md5" / path.stem[:2] / path.stem[2:]
    cached.chmod(0o644)
    cached.write_text("other")
    with pytest.raises(PoseError, match=r"dvc.lock of the run says") as error:
        copy_from_run(FINAL_MODEL, "slow", tmp_path / "changed")
    assert not list((tmp_path / "changed").iterdir())
    cached.unlink(missing_ok=True)
    with pytest.raises(PoseError, match="`dvc exp pull` or `dvc fetch") as error:
        copy_from_run(FINAL_MODEL, "slow", tmp_path / "lost")
    assert "\n" not in str(error.value)
