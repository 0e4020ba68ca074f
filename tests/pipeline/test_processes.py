"""Stages in two processes: the files of one, to rounding; killed, they leave no one behind."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from pipeline.project import Project, wait_for

MODEL = "models/phase2.safetensors"


@pytest.fixture
def pair(project: Project) -> Project:
    project.processes = 2
    return project


def test_an_evaluation_in_shards_gives_the_same_bytes(pair: Project) -> None:
    """Nine persons in batches of four: the second process has one of the three batches.

    Processes are started from any folder.
    """
    results = ("data/predictions", "metrics/evaluate")
    pair.set(**{"evaluate.batch_size": 4})
    done = pair.run("sh", "-c", "cd stages && python evaluate.py")
    assert done.returncode == 0, done.stderr
    assert re.search(r"; device: CPU, \d threads, 2 processes$", done.stderr, re.M), done.stderr
    found = pair.content(*results)
    pair.processes = 1
    pair.must_stage("evaluate")
    assert pair.content(*results) == found


def test_killed_in_two_processes_and_ended_in_one(pair: Project) -> None:
    pair.set(**{"train.checkpoint_steps": 5, "phase2.epochs": 15})
    process = pair.start("python", "stages/train_phase2.py")
    wait_for(lambda: states(pair) or process.poll() is not None)
    trainers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert psutil.wait_procs(trainers, timeout=20)[1] == []
    assert len([one for one in trainers if one.pid]) >= 2

    pair.processes = 1
    assert "train_phase2 resumes from step " in pair.must_stage("train_phase2")
    found = load_file(pair.root / MODEL)
    assert not states(pair)
    pair.must_stage("train_phase2")
    for name, tensor in load_file(pair.root / MODEL).items():
        if not (name.startswith("head.conv_layers") and name.endswith("bias")):
            assert (tensor - found[name]).abs().max() < 1e-3, name


def states(project: Project) -> list[Path]:
    return list(project.root.glob("data/resume/train_phase2-*/state.pt"))


def test_a_batch_that_does_not_come_out_even_is_refused(pair: Project) -> None:
    before = pair.content(MODEL)
    pair.set(**{"train.batch_size": 3})
    done = pair.stage("train_phase2")
    assert done.returncode == 1
    said = "train_phase2: params.yaml: train.batch_size = 3, expected a multiple of 2 processes"
    assert done.stderr.splitlines()[-1].startswith(said)
    assert done.stderr.count("train.batch_size") == 1
    assert "torch" not in done.stderr
    assert pair.content(MODEL) == before
