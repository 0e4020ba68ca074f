"""A killed stage resumes and ends with the same bits; two runs of one stage never meet."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.project import Finished, FirstRun, Project, assert_refused, wait_for
from pose.engine.checkpoint import previous, read_training_state
from tiny_coco import SPLIT, TinyCoco

OFTEN = {"train.checkpoint_steps": 5, "train.log_steps": 3}
SECOND = "models/ssl_second.safetensors"
PAIR = {"ssl.networks": 2, "ssl.ema_decay": 0.9}  # all that stage 2 can have to remember
MODELS = {
    "train_phase1": "models/phase1.safetensors",
    "train_phase2": "models/phase2.safetensors",
    "train_ssl": "models/ssl.safetensors",
}


def left_over(project: Project, pattern: str) -> list[Path]:
    """Unfinished work; the stages' locks stay in data/resume/locks."""
    found = project.root.glob(f"data/resume/{pattern}")
    return [path for path in found if path.name != "locks"]


def end_once(
    found: Callable[[], Any], project: Project, stage: str, sent: signal.Signals = signal.SIGKILL
) -> tuple[list[psutil.Process], Finished]:
    """Run a stage and send it the signal as soon as found() is true; its helpers, and its end."""
    process = project.start("python", f"stages/{stage}.py")
    wait_for(lambda: found() or process.poll() is not None)
    helpers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    stdout, stderr = process.communicate()
    return helpers, Finished(process.args, process.returncode, stdout, stderr)


def kill_once(found: Callable[[], Any], project: Project, stage: str) -> list[psutil.Process]:
    """As end_once, by SIGKILL."""
    helpers, done = end_once(found, project, stage)
    assert done.returncode == -signal.SIGKILL, "it was over before it could be killed"
    return helpers


def outlived(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after a while; they are ended."""
    alive = psutil.wait_procs(processes, timeout=20)[1]
    for process in alive:
        process.kill()
    return alive


@pytest.mark.parametrize("stage", MODELS)
def test_killed_training_ends_with_the_same_bits(project: Project, stage: str) -> None:
    """Phase 2 is asked by SIGTERM, the others are killed."""
    results = (MODELS[stage], MODELS[stage].replace(".", "_other."), SECOND, f"metrics/{stage}")
    project.set(**OFTEN, **PAIR, **{f"{stage.removeprefix('train_')}.epochs": 15})
    if stage == "train_phase2":
        project.set(**{"train.ema_decay": 0.9, "train.keep": "best", "train.on_bad_step": "skip"})
    project.must_stage(stage)
    expected = project.content(*results)
    assert project.json(f"metrics/{stage}/metrics.json")["step"] >= 30
    assert any("images/persons" in name for name in expected)

    (project.root / MODELS[stage]).unlink()
    state = lambda: left_over(project, f"{stage}-*/state.pt")  # noqa: E731
    start = "from step "
    if stage == "train_phase2":
        _, done = end_once(state, project, stage, signal.SIGTERM)
        assert done.returncode == 128 + signal.SIGTERM, done.stderr
        said = re.search(
            r"stopped by SIGTERM after step (\d+) of \d+, which is saved; rerun", done.stderr
        )
        start += f"{said[1]}\n" if said else "of no such line"
    else:
        kill_once(state, project, stage)
    assert not (project.root / MODELS[stage]).exists()

    assert f"{stage} resumes {start}" in project.must_stage(stage)
    assert project.content(*results) == expected
    assert not left_over(project, "*")


def test_killed_cache_ends_with_the_same_bytes(project: Project, tiny_coco: TinyCoco) -> None:
    repeat_images_(tiny_coco, 50)
    project.workers = 2
    values = {"source": "local", "root": str(tiny_coco.root), "shard_persons": 1}
    splits = {"train_split": SPLIT, "val_split": SPLIT}
    project.set(**{f"data.{key}": value for key, value in {**values, **splits}.items()})
    project.must_stage("build_cache")
    expected = project.content("data/cache", "metrics/build_cache")
    assert len(expected) > 2 * 50

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
    """A project whose dvc was killed in train_phase1: its trainers, and rivals' failures."""

    project: Project
    trainers: list[psutil.Process]
    rival: Finished  # the stage by hand
    rival_dvc: Finished


@pytest.fixture(scope="module")
def killed(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    project = first_run.project.copy(tmp_path_factory.mktemp("killed"))
    project.set(**OFTEN, **{"phase1.epochs": 100_000})
    dvc = project.start("dvc", "repro", "train_phase1")
    wait_for(lambda: left_over(project, "train_phase1-*/state.pt") or dvc.poll() is not None)
    children = psutil.Process(dvc.pid).children(recursive=True)
    trainers = [child for child in children if "stages/train_phase1.py" in child.cmdline()]
    rivals = project.stage("train_phase1"), project.run("dvc", "repro", "train_phase1")
    dvc.kill()
    dvc.wait()
    yield Killed(project, trainers, *rivals)
    outlived(trainers)


def test_a_second_run_of_a_stage_is_refused(killed: Killed) -> None:
    another = "another run of this stage"
    assert_refused(killed.rival, "train_phase1", "data/resume/", another, logged=1)


def test_a_second_dvc_is_refused(killed: Killed) -> None:
    """By DVC itself, before it touches anything."""
    assert killed.rival_dvc.returncode != 0
    assert "train_phase1" in killed.rival_dvc.stderr
    assert "PID" in killed.rival_dvc.stderr, killed.rival_dvc.stderr


def test_no_trainer_outlives_dvc(killed: Killed) -> None:
    assert killed.trainers
    assert outlived(killed.trainers) == []


def test_what_is_asked_to_end_with_dvc_has_saved(killed: Killed) -> None:
    """The trainer takes dvc's end for SIGTERM: its state is of no multiple of checkpoint_steps."""
    outlived(killed.trainers)
    (path,) = left_over(killed.project, "train_phase1-*/state.pt")
    newest, before = (read_training_state(one) for one in (path, previous(path)))
    assert newest is not None
    assert before is not None
    assert newest["small"]["step"] > before["small"]["step"]


def test_a_cut_state_gives_way_to_the_one_before(killed: Killed) -> None:
    outlived(killed.trainers)
    (path,) = left_over(killed.project, "train_phase1-*/state.pt")
    before = read_training_state(previous(path))
    assert before is not None
    path.write_bytes(path.read_bytes()[:-100])
    said = f"train_phase1 resumes from step {before['small']['step']}"
    process = killed.project.start("python", "stages/train_phase1.py")
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.strip())
        if "resumes" in line or re.search(r"step \d+/", line):
            break
    process.kill()
    process.communicate()
    assert lines[-1] == said
    assert lines[-2].startswith(f"{path.relative_to(killed.project.root)}: damaged")
