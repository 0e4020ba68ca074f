"""Kills at random moments: of the three training stages, and of `dvc repro` over the whole chain.

Minutes, so `make test` leaves them out and `make test-long` runs them; test_resume.py has a kill
a stage.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

import pytest

import reproduce
from pipeline.project import FirstRun, Project

KILLS = 20
CHAIN_KILLS = 100
STAGES = ("train_phase1", "train_phase2", "train_ssl")
SEED = 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_storm_of_kills(project: Project) -> None:
    results = ("models", *(f"metrics/{stage}" for stage in STAGES))
    often = {"train.checkpoint_steps": 3, "train.log_steps": 5, "train.ema_decay": 0.9}
    project.set(**often, **{f"{phase}.epochs": 40 for phase in ("phase1", "phase2", "ssl")})
    seconds = {stage: undisturbed(project, stage) for stage in STAGES}
    expected = project.content(*results)
    shutil.rmtree(project.root / "models")
    rng, kills = random.Random(SEED), 0
    for number, stage in enumerate(STAGES, start=1):
        while kills < KILLS * number / len(STAGES):
            kills += killed(project, stage, rng.uniform(0, seconds[stage]))
        project.must_stage(stage)
    assert kills == KILLS
    found = project.content(*results)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def undisturbed(project: Project, stage: str) -> float:
    """Seconds that a stage takes."""
    start = time.monotonic()
    project.must_stage(stage)
    return time.monotonic() - start


def killed(project: Project, stage: str, after: float) -> bool:
    """Whether a run of the stage was killed after so many seconds, before it was done."""
    process = project.start("python", f"stages/{stage}.py")
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_storm_of_kills_over_the_chain(first_run: FirstRun, tmp_path: Path) -> None:
    """SIGKILL to dvc, stage and helpers at once. A chain that got to its end is begun anew.

    The longest life of a run is a quarter of what the chain takes undisturbed on this machine. What
    DVC was killed over is mended as `make repro` does.
    """
    project = first_run.project.clone(tmp_path)
    project.workers = 2
    expected = reproduce.digests(first_run.project.root)
    start = time.monotonic()
    project.must("dvc", "repro")
    longest = (time.monotonic() - start) / 4
    project.must("git", "clean", "-dffxq")
    rng, kills, chains, cut = random.Random(SEED), 0, 0, 0
    while kills < CHAIN_KILLS or not chains:
        if group_killed(project, rng.uniform(0, longest)):
            kills += 1
            told = project.must("python", "tools/repair_lock.py")
            cut += "truncated" in told
        else:
            assert reproduce.digests(project.root) == expected
            assert project.changed() == set()
            chains += 1
            project.must("git", "clean", "-dffxq")  # as it was cloned, without data or cache
    told = f"{kills} kills over {chains} whole chains, {cut} times in the middle of DVC's own files"
    warnings.warn(told, stacklevel=1)  # in the summary


def group_killed(project: Project, after: float) -> bool:
    """Whether `dvc repro` was killed after so many seconds, with all that it started."""
    process = project.start("setsid", "dvc", "repro")
    try:
        stdout, stderr = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, stdout + stderr
    return False
