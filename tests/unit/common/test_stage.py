"""Folders and locks of a stage's run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pose.common import stage

OTHER_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from pose.common import stage
stage.RESUME, stage._key = Path(sys.argv[1]), lambda name: "other"
with stage.resume_folder("train_phase1"):
    print("works")
"""


def test_a_run_with_other_params_is_refused_and_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "RESUME", tmp_path)
    monkeypatch.setattr(stage, "_key", lambda name: "mine")
    command = [sys.executable, "-c", OTHER_RUN, str(tmp_path), str(stage.ROOT / "stages")]
    with stage.resume_folder("train_phase1") as folder:
        (folder / "state.pt").write_bytes(b"of steps")
        rival = subprocess.run(command, capture_output=True, text=True)
        assert (folder / "state.pt").read_bytes() == b"of steps"
    assert "another run of this stage is running" in rival.stderr
    assert not folder.exists()
    (tmp_path / "train_phase1-mine").mkdir()
    assert subprocess.run(command, capture_output=True, text=True).stdout == "works\n"
    assert not (tmp_path / "train_phase1-mine").exists()
