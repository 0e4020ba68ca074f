"""Twenty kills at random moments over the three training stages: the same bits at the end.

Minutes, so `make test` leaves it out; `make test-long` runs it. test_resume.py has a kill a stage.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time

import pytest

from pipeline.project import Project

KILLS = 20
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
