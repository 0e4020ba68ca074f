"""examples/optuna_lr.py on a chain of one stage whose AP follows from train.lr."""

from __future__ import annotations

import math
import shutil
import sqlite3
from pathlib import Path

import pytest

from pipeline.project import ROOT, Project

LIMIT = 2e-3  # from here on the stage fails
EVALUATE = """
import json, math
lr = float(open("params.yaml").read().split("lr:")[1])
assert lr < LIMIT, "diverged"
json.dump({"AP": 1 - abs(math.log10(lr) + 3) / 10}, open("metrics.json", "w"))
"""
STAGE = """
stages:
  evaluate:
    cmd: python evaluate.py
    deps: [evaluate.py]
    params: [train.lr]
    metrics: [metrics.json: {cache: false}]
"""


def search(folder: Path) -> dict[float, tuple[str, float | None]]:
    """(state, AP) by train.lr after two rounds of two trials."""
    project = Project(folder / "a project" / "pose")
    (project.root / "examples").mkdir(parents=True)
    shutil.copy(ROOT / "examples/optuna_lr.py", project.root / "examples")
    (project.root / "params.yaml").write_text("train:\n  lr: 0.0005\n")
    (project.root / "evaluate.py").write_text(EVALUATE.replace("LIMIT", str(LIMIT)))
    (project.root / "dvc.yaml").write_text(STAGE)
    project.must("git", "init", "--quiet", "--initial-branch", "main")
    project.must("git", "config", "user.name", "test")
    project.must("git", "config", "user.email", "test@example.org")
    project.must("dvc", "init", "--quiet")
    project.must("dvc", "repro")
    project.commit("start")
    project.must("python", "examples/optuna_lr.py", "--rounds", "2", "--trials", "2")
    with sqlite3.connect(project.root / ".dvc/tmp/optuna.db") as study:
        rows = study.execute(
            "SELECT param_value, state, value FROM trials JOIN trial_params USING (trial_id) "
            "LEFT JOIN trial_values USING (trial_id)"
        ).fetchall()
    return {lr: (state, value) for lr, state, value in rows}


def test_each_trial_is_an_experiment_with_its_ap_or_failed(tmp_path: Path) -> None:
    found = search(tmp_path)
    assert len(found) == 4
    for lr, (state, value) in found.items():
        assert state == ("COMPLETE" if lr < LIMIT else "FAIL")
        if state == "COMPLETE":
            assert value == pytest.approx(1 - abs(math.log10(lr) + 3) / 10, abs=1e-3)
    assert {state for state, _ in found.values()} == {"COMPLETE", "FAIL"}
