"""evaluate: what is asked for is run, a killed run resumes, a split without truth gets poses."""

from __future__ import annotations

import csv
import json
import shutil
import signal

import pytest

from pipeline.project import Project, wait_for
from pose.crop_table import CropTable
from tiny_coco import SPLIT, TinyCoco

RESULTS = ("data/predictions", "metrics/evaluate")
Rows = dict[tuple[str, str, str], dict[str, str]]


def ablation(project: Project) -> Rows:
    with (project.root / "metrics/evaluate/ablation.csv").open() as stream:
        return {(row["model"], row["tta"], row["decoder"]): row for row in csv.DictReader(stream)}


def test_scales_and_an_ensemble_by_param(project: Project) -> None:
    """An ensemble of a model with itself, by name and by path, is that model to rounding."""
    before, copy = ablation(project), project.root.parent / "own.safetensors"
    shutil.copy(project.root / "models/ssl.safetensors", copy)
    project.set(
        **{
            "evaluate.models": ["ssl"],
            "evaluate.scales": [0.9, 1.0, 1.1],
            "evaluate.ensemble": ["ssl", str(copy)],
        }
    )
    project.must_stage("evaluate")
    found = ablation(project)
    assert list(found) == [
        (model, tta, decoder)
        for model in ("ssl", "ensemble")
        for tta in ("none", "flip", "multiscale")
        for decoder in ("argmax", "dark")
    ]
    for tta in ("none", "flip"):
        assert found["ssl", tta, "dark"] == before["ssl", tta, "dark"]
    mine, theirs = (project.json(f"data/predictions/{name}.json") for name in ("ssl", "ensemble"))
    assert [one["keypoints"] for one in mine] == [
        pytest.approx(one["keypoints"], abs=1e-3) for one in theirs
    ]
    listed = {path.name for path in (project.root / "data/predictions").iterdir()}
    assert listed == {
        "ssl.json",
        "ensemble.json",
        "calibration.json",
        "keypoints.json",
        "persons.json",
        "instances.csv",
    }
    assert project.json("data/predictions/keypoints.json") == mine


def test_a_killed_evaluation_goes_on(project: Project) -> None:
    before = project.content(*RESULTS)
    process = project.start("python", "stages/evaluate.py")
    wait_for(lambda: kept(project) or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert "batches were predicted before" in project.must_stage("evaluate")
    assert project.content(*RESULTS) == before
    assert not kept(project)


def kept(project: Project) -> list[str]:
    return [path.name for path in project.root.glob("data/resume/evaluate-*/*/*.npz")]


def test_a_split_without_annotations_gets_poses_and_no_scores(
    project: Project, tiny_coco: TinyCoco
) -> None:
    """As COCO's test-dev: a list of images, and a detector's boxes in them."""
    root = tiny_coco.root
    images = json.dumps({"images": tiny_coco.raw["images"], "categories": []})
    (root / "annotations/image_info_test-dev2017.json").write_text(images)
    shutil.copytree(root / SPLIT, root / "test2017")
    boxes = [
        {"image_id": i, "category_id": 1, "bbox": [30, 20, 60, 90], "score": 0.5 + 0.1 * i}
        for i in (1, 2, 3)
    ]
    detections = project.root / "data/coco/detections.json"  # as download_coco leaves it
    detections.write_text(json.dumps(boxes))
    project.set(
        **{
            "data.source": "local",
            "data.root": str(root),
            "data.train_split": SPLIT,
            "data.val_split": "test-dev2017",
            "data.detections": str(detections),
            "evaluate.ablation": "headline",
        }
    )
    project.must_stage("build_cache")
    project.must_stage("evaluate")
    assert len(CropTable(project.root / "data/cache/detections")) == 3
    assert project.json("metrics/evaluate/metrics.json") == {
        "boxes": "detections.json",
        "scored": False,
        "poses": 3,
    }
    found = project.json("data/predictions/keypoints.json")
    assert [one["image_id"] for one in found] == [1, 2, 3]
    for one in found:
        assert {*one} == {"image_id", "category_id", "keypoints", "score"}
        assert len(one["keypoints"]) == 51
    for path in (project.root / "metrics/evaluate").glob("*.csv"):
        assert len(path.read_text().splitlines()) == 1, path.name
