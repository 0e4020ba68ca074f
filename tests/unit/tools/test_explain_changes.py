"""The line at the end of `make repro`: only if bytes changed and no input did."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from explain_changes import ROOT, first_other_bytes

LOCK = {
    "cache": {
        "cmd": "python cache.py",
        "deps": [{"path": "stages/cache.py", "md5": "1"}],
        "params": {"params.yaml": {"run.seed": 0}},
        "outs": [{"path": "data/cache", "md5": "2"}],
    },
    "train": {
        "cmd": "python train.py",
        "deps": [{"path": "data/cache", "md5": "2"}, {"path": "stages/train.py", "md5": "3"}],
        "outs": [{"path": "models", "md5": "4"}],
    },
    "evaluate": {
        "cmd": "python evaluate.py",
        "deps": [{"path": "models", "md5": "4"}],
        "outs": [{"path": "metrics", "md5": "5"}],
    },
}


def rounded() -> dict:
    """LOCK after a run whose training rounds differently."""
    lock = copy.deepcopy(LOCK)
    lock["train"]["outs"][0]["md5"] = lock["evaluate"]["deps"][0]["md5"] = "6"
    lock["evaluate"]["outs"][0]["md5"] = "7"
    return lock


def test_the_stage_that_rounds_differently_is_named() -> None:
    assert first_other_bytes(LOCK, rounded()) == "train"
    assert first_other_bytes(dict(reversed(LOCK.items())), rounded()) == "train"
    assert first_other_bytes(LOCK, copy.deepcopy(LOCK)) is None


def test_the_first_stage_of_the_committed_lock_is_named() -> None:
    """Where stages depend on parts of an out: data/cache/train of data/cache."""
    before = yaml.safe_load((ROOT / "dvc.lock").read_text("utf-8"))["stages"]
    after = copy.deepcopy(before)
    for entry in after.values():
        for item in (*entry["deps"], *entry["outs"]):
            if item["path"].startswith(("data/coco", "data/cache", "models", "metrics/train")):
                item["md5"] = f"other {item['md5']}"
    assert first_other_bytes(before, after) == "download_coco"


@pytest.mark.parametrize("edit", ["cmd", "params", "code", "a stage"])
def test_after_an_edit_there_is_nothing_to_explain(edit: str) -> None:
    after = rounded()
    if edit == "cmd":
        after["evaluate"]["cmd"] += " -v"
    elif edit == "params":
        after["cache"]["params"]["params.yaml"]["run.seed"] = 1
    elif edit == "code":
        after["train"]["deps"][1]["md5"] = "8"
    else:
        after["report"] = {"cmd": "python report.py"}
    assert first_other_bytes(LOCK, after) is None


def test_weights_that_dvc_does_not_watch_are_no_rounding() -> None:
    weights = {"cmd": "python fetch_weights.py", "outs": [{"path": "data/weights", "md5": "1"}]}
    other = {**weights, "outs": [{"path": "data/weights", "md5": "2"}]}
    before = LOCK | {"fetch_weights": weights}
    assert first_other_bytes(before, rounded() | {"fetch_weights": other}) is None
    assert first_other_bytes(before, rounded() | {"fetch_weights": weights}) == "train"


@pytest.mark.parametrize("below", ["", "research/pose"])
def test_it_prints_one_line(tmp_path: Path, below: str) -> None:
    """Also where the project is a folder of a larger repository."""
    root = tmp_path / below
    (root / "tools").mkdir(parents=True)
    script = shutil.copy(ROOT / "tools/explain_changes.py", root / "tools")
    (root / "stages").symlink_to(ROOT / "stages")
    lock = root / "dvc.lock"
    lock.write_text(yaml.safe_dump({"stages": LOCK}, sort_keys=False))

    def git(*command: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True)

    def printed() -> str:
        command = [sys.executable, script]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert printed() == ""  # no repository
    git("init", "-q")
    assert printed() == ""  # no commit
    git("add", str(lock))
    git("commit", "-qm", "a run")
    assert printed() == ""  # no change
    lock.write_text(yaml.safe_dump({"stages": rounded()}, sort_keys=False))
    assert printed().startswith("train wrote other bytes than at the last commit")
    assert "1 files in git changed" in printed()
    assert printed().count("\n") == 1
