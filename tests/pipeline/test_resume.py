"""A stage that is killed goes on and ends with the same bits; two runs of one never meet."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.project import Finished, FirstRun, Project, assert_refused, wait_for
from tiny import SPLIT, TinyCoco

OFTEN = {"train.checkpoint_steps": 5, "train.log_steps": 3}
SECOND = "models/ssl_second.safetensors"
PAIR = {"ssl.networks": 2, "ssl.ema_decay": 0.9}  # all that stage 2 can have to remember
MODELS = {
    "train_phase1": "models/phase1.safetensors",
    "train_phase2": "models/phase2.safetensors",
    "train_ssl": "models/ssl.safetensors",
}


def left_over(project: Project, pattern: str) -> list[Path]:
    return list(project.root.glob(f"data/resume/{pattern}"))


def kill_once(found: Callable[[], Any], project: Project, stage: str) -> list[psutil.Process]:
    """Run a stage and end it with SIGKILL as soon as found() is true; returns its helpers."""
    process = project.start("python", f"stages/{stage}.py")
    wait_for(lambda: found() or process.poll() is not None)
    helpers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    return helpers


def outlived(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after a while; they are ended."""
    alive = psutil.wait_procs(processes, timeout=20)[1]
    for process in alive:
        process.kill()
    return alive


@pytest.mark.parametrize("stage", MODELS)
def test_killed_training_ends_with_the_same_bits(project: Project, stage: str) -> None:
    results = (MODELS[stage], SECOND, f"metrics/{stage}")
    project.set(**OFTEN, **PAIR, **{f"{stage.removeprefix('train_')}.epochs": 15})
    project.must_stage(stage)
    expected = project.content(*results)
    assert project.json(f"metrics/{stage}/metrics.json")["step"] >= 30

    (project.root / MODELS[stage]).unlink()
    kill_once(lambda: left_over(project, f"{stage}-*/state.pt"), project, stage)
    assert not (project.root / MODELS[stage]).exists()

    assert f"{stage} goes on from step " in project.must_stage(stage)
    assert project.content(*results) == expected
    assert not left_over(project, "*")


def test_killed_cache_ends_with_the_same_bytes(project: Project, tiny_coco: TinyCoco) -> None:
    repeat_images_(tiny_coco, 150)
    project.workers = 2
    values = {"source": "local", "root": str(tiny_coco.root), "shard_persons": 1}
    splits = {"train_split": SPLIT, "val_split": SPLIT}
    project.set(**{f"data.{key}": value for key, value in {**values, **splits}.items()})
    project.must_stage("build_cache")
    expected = project.content("data/cache", "metrics/build_cache")
    assert len(expected) > 2 * 150

    finished = "build_cache-*/train/00003.json"
    helpers = kill_once(lambda: left_over(project, finished), project, "build_cache")
    assert outlived(helpers) == []
    assert project.content("data/cache", "metrics/build_cache") == expected
    (notes,) = left_over(project, finished)
    shard = notes.with_suffix(".arrow").stat().st_ino
    project.must_stage("build_cache")
    assert project.content("data/cache", "metrics/build_cache") == expected
    assert (project.root / "data/cache/train/00003.arrow").stat().st_ino == shard  # not redone
    assert not left_over(project, "*")


def repeat_images_(coco: TinyCoco, times: int) -> None:
    """The same pictures and persons under many ids."""
    images, persons = coco.raw["images"], coco.raw["annotations"]
    shifts = range(0, 1000 * times, 1000)
    coco.raw["images"] = [{**image, "id": image["id"] + n} for n in shifts for image in images]
    coco.raw["annotations"] = [
        {**one, "id": one["id"] + n, "image_id": one["image_id"] + n}
        for n in shifts
        for one in persons
    ]
    coco.save()


@dataclass(frozen=True)
class Killed:
    """A project whose dvc was killed in train_phase1: its trainers, and a rival's failure."""

    project: Project
    trainers: list[psutil.Process]
    rival: Finished


@pytest.fixture(scope="module")
def killed(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    project = first_run.project.copy(tmp_path_factory.mktemp("killed"))
    project.set(**OFTEN, **{"phase1.epochs": 100_000})
    dvc = project.start("dvc", "repro", "train_phase1")
    wait_for(lambda: left_over(project, "train_phase1-*/state.pt") or dvc.poll() is not None)
    children = psutil.Process(dvc.pid).children(recursive=True)
    trainers = [child for child in children if "stages/train_phase1.py" in child.cmdline()]
    rival = project.stage("train_phase1")
    dvc.kill()
    dvc.wait()
    yield Killed(project, trainers, rival)
    outlived(trainers)


def test_a_second_run_of_a_stage_is_refused(killed: Killed) -> None:
    another = "another run of this stage"
    assert_refused(killed.rival, "train_phase1", "data/resume/", another, logged=1)


def test_no_trainer_outlives_dvc(killed: Killed) -> None:
    assert killed.trainers
    assert outlived(killed.trainers) == []


def test_a_cut_state_is_refused(killed: Killed) -> None:
    outlived(killed.trainers)
    (state,) = left_over(killed.project, "train_phase1-*/state.pt")
    state.write_bytes(state.read_bytes()[:-100])
    done = killed.project.stage("train_phase1")
    name = str(state.relative_to(killed.project.root))
    assert_refused(done, "train_phase1", name, "delete it", logged=1)
    assert state.exists()
