"""Two runs are compared file by file, of all that dvc.yaml declares."""

from __future__ import annotations

from pathlib import Path

import pytest

import reproduce
from pose.common.errors import PoseError

CHAIN = """
stages:
  one:
    outs: [data/one]
    metrics: [metrics/one.json: {cache: false}]
  two:
    plots: [metrics/two.csv: {cache: false, x: step}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "data/one").mkdir(parents=True)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "dvc.yaml").write_text(CHAIN)
    for name in ("dvc.lock", "data/one/a", "metrics/one.json", "metrics/two.csv"):
        (tmp_path / name).write_text("first")
    return tmp_path


def test_each_declared_file_counts(project: Path) -> None:
    before = reproduce.digests(project)
    assert list(before) == ["dvc.lock", "data/one", "metrics/one.json", "metrics/two.csv"]
    (project / "data/one/a").write_text("other")
    after = reproduce.digests(project)
    assert [name for name in before if before[name] != after[name]] == ["data/one"]


def test_a_difference_is_shown() -> None:
    lines = reproduce.table([("a", "1" * 64, "1" * 64), ("b", "1" * 64, "2" * 64)]).splitlines()
    assert lines[2] == f"| a | {'1' * 12} | {'1' * 12} | same |"
    assert lines[3].endswith(f"| {'2' * 12} | DIFFERENT |")


def fake_dvc(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """`dvc` is a shell script for a while."""
    (folder / "dvc").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "dvc").chmod(0o755)
    monkeypatch.setattr(reproduce.sys, "executable", str(folder / "python"))


def test_a_run_is_killed_once_and_gone_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dvc(tmp_path, monkeypatch, 'echo "$@" >> calls; [ "$2" ] && touch state && exec sleep 60')
    with pytest.raises(PoseError, match="exited with 1"):  # the test of "$2" is its last word
        reproduce.repro(tmp_path, 1, kill_at="state")
    assert (tmp_path / "calls").read_text().splitlines() == ["repro --force", "repro"]


def test_a_kill_that_never_came_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dvc(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(PoseError, match="state never appeared"):
        reproduce.repro(tmp_path, 1, kill_at="state")


def test_a_failed_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dvc(tmp_path, monkeypatch, "exit 3")
    with pytest.raises(PoseError, match="exited with 3"):
        reproduce.repro(tmp_path, 1)
