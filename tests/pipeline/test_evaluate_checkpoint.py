"""evaluate_checkpoint: the chain's own numbers, of a file, without train and beside the project."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from pipeline.project import Finished, FirstRun, Project, assert_refused

SCRIPT = "stages/evaluate_checkpoint.py"


@pytest.fixture
def val_only(first_run: FirstRun, tmp_path: Path) -> Path:
    """Val of the chain's data set; there is no annotation file of train."""
    source, folder = first_run.project.root / "data/coco", tmp_path / "val only"
    with zipfile.ZipFile(source / "annotations_trainval2017.zip") as archive:
        archive.extract("annotations/person_keypoints_val2017.json", folder)
    shutil.copy(source / "val2017.zip", folder)
    assert not list(folder.rglob("*train*"))
    return folder


def run(
    project: Project, data: Path, *more: str, weights: str = "models/ssl.safetensors"
) -> Finished:
    return project.run("python", SCRIPT, "--weights", weights, "--data", str(data), *more)


def test_a_model_of_the_chain_has_the_ap_that_evaluate_wrote(
    project: Project, val_only: Path, tmp_path: Path
) -> None:
    watched = ("data", "models", "metrics", "report", "dvc.lock", "params.yaml")
    before, out = project.content(*watched), tmp_path / "evaluated"
    done = run(project, val_only, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert project.content(*watched) == before
    assert project.changed() == set()
    chain = pd.read_csv(project.root / "metrics/evaluate/ablation.csv", dtype=str)
    mine = pd.read_csv(out / "ablation.csv", dtype=str)
    expected = chain[chain["model"] == "ssl"].assign(model="checkpoint").reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, expected)
    assert json.loads((out / "metrics.json").read_text()) == project.json(
        "metrics/evaluate/metrics.json"
    )
    people = (out / "instances.csv").read_text()
    assert people == (project.root / "data/predictions/instances.csv").read_text()
    assert len(people.splitlines()) > 4
    poses = json.loads((out / "results.json").read_text())
    assert poses == project.json("data/predictions/keypoints.json")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["AP", "AP50", "AP75", "APm", "APl", "AR"]
    assert [line[:9] for line in lines[1:3]] == ["one view ", "flip test"]
    assert lines[3:] == ["this file: val2017, boxes: ground truth"]


def test_detected_boxes(project: Project, val_only: Path, tmp_path: Path) -> None:
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [30, 20, 60, 90], "score": 0.5}]
    truth = json.loads((val_only / "annotations/person_keypoints_val2017.json").read_text())
    boxes[0]["image_id"] = truth["images"][0]["id"]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    out = tmp_path / "evaluated"
    done = run(project, val_only, "--out", str(out), "--detections", str(tmp_path / "boxes.json"))
    assert done.returncode == 0, done.stderr
    assert len(json.loads((out / "results.json").read_text())) == 1
    assert json.loads((out / "metrics.json").read_text())["boxes"] == "detections.json"


def test_what_cannot_be_evaluated_is_one_line(project: Project, val_only: Path) -> None:
    name = "evaluate_checkpoint"
    headless = run(project, val_only, weights="data/weights/start.safetensors")
    assert_refused(headless, name, "has no head of a pose model", "only a pose model can be")
    lost = run(project, val_only, weights="lost.pth")
    assert_refused(lost, name, "--weights lost.pth: no such file")
    split = run(project, val_only, "--val-split", "val2014")
    assert_refused(split, name, "person_keypoints_val2014.json", "person_keypoints_val2017.json")
    recipe = run(project, val_only, "--recipe", "nothing")
    assert_refused(recipe, name, "no recipe 'nothing'; choose one of")
    address = run(project, val_only, weights="https://example.org/a.pth")
    assert_refused(address, name, "an address needs --sha256")
    path = val_only / "annotations/person_keypoints_val2017.json"
    raw = json.loads(path.read_text())
    raw["categories"][0]["keypoints"] = raw["categories"][0]["keypoints"][:16]
    for annotation in raw["annotations"]:
        annotation["keypoints"] = annotation["keypoints"][:48]
        visible = annotation["keypoints"][2::3]
        annotation["num_keypoints"] = sum(v > 0 for v in visible)
    path.write_text(json.dumps(raw))
    fewer = run(project, val_only)
    assert_refused(fewer, name, "17", "16")
