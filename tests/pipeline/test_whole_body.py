"""Whole bodies through the whole chain: rendered, and from COCO-WholeBody's files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import pandas as pd
import pytest
from safetensors import safe_open

from own_keypoints_data import write_mice
from pipeline.project import STAGES, Project, assert_refused, new_project, ran
from pose.common.skeleton import names_of_parts
from pose.common.whole_body import ALL_PARTS
from pose.crop_table import CropTable
from pose.report.pictures import FINE_CELL

NAMES = names_of_parts(ALL_PARTS)
PART_APS = [f"AP_{part}" for part in (*ALL_PARTS, "wholebody")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project reproduced on rendered whole bodies, and its log."""
    project = new_project(tmp_path_factory.mktemp("whole"))
    project.set(**{"keypoints.parts": [*ALL_PARTS]})
    return project, project.must("dvc", "repro")


def test_the_whole_chain(whole: tuple[Project, str]) -> None:
    project, output = whole
    assert sorted(ran(output)) == sorted(STAGES)
    assert project.json("data/cache/skeleton.json")["names"] == [*NAMES]
    table = CropTable(project.root / "data/cache/val")
    assert table.keypoints.shape[1:] == (133, 3)
    coverage = pd.read_csv(project.root / "metrics/build_cache/keypoints.csv")
    assert coverage["keypoint"].tolist() == [*NAMES]
    assert (coverage["val"] > 0.2).all()
    for phase in ("phase1", "phase2", "ssl"):
        with safe_open(project.root / f"models/{phase}.safetensors", "pt") as stream:
            assert stream.get_slice("head.final_layer.weight").get_shape()[0] == 133


def test_each_part_is_scored(whole: tuple[Project, str]) -> None:
    project, _ = whole
    metrics = project.json("metrics/evaluate/metrics.json")
    assert [name for name in metrics if name.startswith("AP_")] == PART_APS
    assert metrics["AP"] == metrics["AP_wholebody"]
    ablation = pd.read_csv(project.root / "metrics/evaluate/ablation.csv")
    assert ablation.columns.tolist()[-len(PART_APS) :] == PART_APS
    page = (project.root / "report/index.html").read_text()
    assert all(f">{name}</" in page for name in PART_APS)
    picture = cv2.imread(str(project.root / "metrics/report/pictures/poses.jpg"))
    assert picture is not None
    assert picture.shape[0] > FINE_CELL


def test_a_further_set_may_have_keypoints_of_parts(
    whole: tuple[Project, str], tmp_path: Path
) -> None:
    project = whole[0].copy(tmp_path)
    write_mice(tmp_path / "mice", "train", 5)
    names = {
        "nose": "nose",
        "left_ear": "left_heel",
        "right_ear": "right_heel",
        "tail_tip": "face-8",
    }
    entry = {"name": "mice", "root": str(tmp_path / "mice"), "category": "mouse", "map": names}
    project.set(**{"data.also": [entry]})
    project.must_stage("download_coco")
    project.must_stage("build_cache")
    table = CropTable(project.root / "data/cache/train")
    (*_, mice) = table.sets
    assert (mice.name, mice.keypoints) == ("mice", 4)
    rows = [row for row, index in enumerate(table.set_index) if index == 1]
    labelled = (table.keypoints[rows][..., 2] > 0).all(axis=0)
    assert {NAMES[k] for k in labelled.nonzero()[0]} == {*names.values()}


def test_files_of_coco_wholebody(whole: tuple[Project, str], tmp_path: Path) -> None:
    """Its file names, in data.train_annotations; then a file without faces."""
    project = whole[0].copy(tmp_path)
    root = tmp_path / "own coco"
    with zipfile.ZipFile(project.root / "data/coco/annotations_trainval2017.zip") as archive:
        for split in ("train", "val"):
            content = archive.read(f"annotations/person_keypoints_{split}2017.json")
            path = root / f"annotations/coco_wholebody_{split}_v1.0.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            source = project.root / f"data/coco/{split}2017.zip"
            (root / source.name).write_bytes(source.read_bytes())
    before = project.content("data/cache/val")
    project.set(**{"data.source": "local", "data.root": str(root)})
    for split in ("train", "val"):
        file = f"annotations/coco_wholebody_{split}_v1.0.json"
        project.set(
            **{f"data.{split}_annotations": file, f"data.{split}_images": f"{split}2017.zip"}
        )
    project.must_stage("download_coco")
    project.must_stage("build_cache")
    assert project.content("data/cache/val") == before
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        del annotation["face_kpts"]
    path.write_text(json.dumps(document))
    assert_refused(
        project.stage("download_coco"),
        "download_coco",
        "coco_wholebody_val_v1.0.json: no annotation has 'face_kpts'",
    )
