"""Two branches that both ran are merged as docs/experiments.md says, with real git and dvc."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import reproduce
from pipeline.project import ROOT, STAGES, Finished, FirstRun, Project, ran, succeeded

PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Merge two branches\n")[2].partition("\n## ")[0]
(BLOCK,) = re.findall(r"(?ms)^```sh\n(.*?)^```$", SECTION)
MERGE, RESOLVE, REPRO, *COMMIT = (line.partition("  #")[0].strip() for line in BLOCK.splitlines())
MINE, OTHER = {"train.lr": 1e-3}, {"phase2.epochs": 2}


@dataclass(frozen=True)
class Merge:
    """A project after the section's commands, and what was seen in between."""

    project: Project
    unmerged: set[str]
    conflicted: bytes  # dvc.lock
    repaired: Finished  # tools/repair_lock.py in the middle of the merge
    after_repair: bytes  # dvc.lock
    output: str  # of `dvc repro`


@pytest.fixture(scope="module")
def merge(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Merge:
    project = first_run.project.copy(tmp_path_factory.mktemp("merge"))
    for branch, change in (("other", OTHER), ("mine", MINE)):
        project.must("git", "switch", "--quiet", "--create", branch, "main")
        project.set(**change)
        project.must("dvc", "repro")
        project.commit(branch)
    assert typed(project, MERGE).returncode == 1
    unmerged = project.must("git", "diff", "--name-only", "--diff-filter=U", "-z").split("\0")
    lock = project.root / "dvc.lock"
    conflicted = lock.read_bytes()
    repaired, after_repair = project.run("python", "tools/repair_lock.py"), lock.read_bytes()
    succeeded(typed(project, RESOLVE))
    output = succeeded(typed(project, REPRO)).stdout
    for line in COMMIT:
        succeeded(typed(project, line))
    return Merge(project, set(filter(None, unmerged)), conflicted, repaired, after_repair, output)


def typed(project: Project, line: str) -> Finished:
    return project.run("bash", "-euo", "pipefail", "-c", line)


def test_both_branches_changed_the_lock_and_metrics(merge: Merge) -> None:
    assert "dvc.lock" in merge.unmerged
    assert "metrics/train_phase2/metrics.json" in merge.unmerged
    assert all(name == "dvc.lock" or name.startswith("metrics/") for name in merge.unmerged)


def test_make_repro_leaves_a_conflicted_lock_alone(merge: Merge) -> None:
    assert b"<<<<<<< HEAD\n" in merge.conflicted
    assert merge.after_repair == merge.conflicted
    assert merge.repaired.returncode == 1
    assert merge.repaired.stdout == ""
    (line,) = merge.repaired.stderr.splitlines()
    assert line.startswith("dvc.lock: has merge conflicts, so it was left as it is; ")
    assert f"`{RESOLVE}`, then `dvc repro`" in line


def test_the_merge_is_committed_and_up_to_date(merge: Merge) -> None:
    project = merge.project
    assert project.changed() == set()
    assert len(project.must("git", "log", "-1", "--format=%P").split()) == 2
    assert "up to date" in project.must("dvc", "status")
    params = project.params()
    assert params["train"]["lr"] == 1e-3
    assert params["phase2"]["epochs"] == 2


def test_only_stages_that_differ_from_mine_run(merge: Merge) -> None:
    """Phase 1 depends on train.lr alone, so its result is that of the branch mine."""
    assert ran(merge.output) == list(STAGES[STAGES.index("train_phase2") :])


def test_results_are_those_of_a_run_from_scratch(merge: Merge, tmp_path: Path) -> None:
    scratch = merge.project.clone(tmp_path)
    assert sorted(ran(scratch.must("dvc", "repro"))) == sorted(STAGES)
    assert scratch.changed() == set()  # dvc.lock and metrics/
    assert reproduce.digests(scratch.root) == reproduce.digests(merge.project.root)
