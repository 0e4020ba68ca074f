"""Two `dvc repro` in one folder: the sentence of docs/experiments.md."""

from __future__ import annotations

from pathlib import Path

import psutil

from pipeline.project import ROOT, Project, wait_for

STAGE = "stages: {slow: {cmd: 'touch started && sleep 600', outs: [out]}}\n"


def test_the_second_is_refused_while_a_stage_runs(tmp_path: Path) -> None:
    project = Project(tmp_path / "a project" / "pose", preloaded=False)
    project.root.mkdir(parents=True)
    project.must("git", "init", "--quiet")
    project.must("dvc", "init", "--quiet")
    (project.root / "dvc.yaml").write_text(STAGE)
    first = project.start("dvc", "repro")
    try:
        wait_for((project.root / "started").exists)
        second = project.run("dvc", "repro")
    finally:
        for process in psutil.Process(first.pid).children(recursive=True):
            process.kill()
        first.communicate()  # ends by itself: its stage has failed
    said = "is busy, it is being blocked by"
    assert second.returncode != 0
    assert said in second.stderr
    assert said in " ".join((ROOT / "docs/experiments.md").read_text("utf-8").split())
