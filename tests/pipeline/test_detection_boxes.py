"""A detector's boxes instead of the ground truth's: what reruns, what is counted, what is equal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.project import FirstRun, Project, ran
from pose.codecs.geometry import bbox_to_center_scale
from pose.crop_table import CropTable

RERUN = ["download_coco", "build_cache", "evaluate", "report"]
PHASES = ("phase1", "phase2", "ssl")


@dataclass(frozen=True)
class Detected:
    """A project reproduced on a detector's file, and the file's records."""

    project: Project
    records: list[dict[str, Any]]
    output: str


def true_boxes(project: Project) -> list[dict[str, Any]]:
    """The labelled persons of val as a detector that is sure of them would have them."""
    table = CropTable(project.root / "data/cache/val")
    return [
        {
            "image_id": int(table.image_id[row]),
            "category_id": 1,
            "bbox": table.bbox_xywh[row].tolist(),
            "score": 1.0,
        }
        for row in table.labelled()
    ]


def as_a_detector_finds_them(project: Project) -> list[dict[str, Any]]:
    """Each twice, moved and scored, between boxes of nothing; besides, what is nobody's."""
    rng = np.random.default_rng(0)
    found = []
    for one in true_boxes(project):
        for _ in range(2):
            bbox = (np.array(one["bbox"]) + rng.normal(0, 4, 4)).tolist()
            found.append(one | {"bbox": bbox, "score": rng.uniform()})
        false = [*rng.uniform(-40, 300, 2), *rng.uniform(5, 200, 2)]
        found.append(one | {"bbox": false, "score": rng.uniform(0, 0.1)})
        found.append(one | {"category_id": 2, "score": 0.9})
        found.append(one | {"image_id": 10**9})
    return [found[i] for i in rng.permutation(len(found))]


def use(project: Project, records: list[dict[str, Any]], path: Path) -> str:
    path.write_text(json.dumps(records), encoding="utf-8")
    project.set(**{"data.detections": str(path)})
    return project.must("dvc", "repro")


@pytest.fixture(scope="module")
def plain(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Ground-truth boxes; NMS drops no pose and rescoring no keypoint, however weak."""
    project = first_run.project.copy(tmp_path_factory.mktemp("plain"))
    project.set(**{"evaluate.oks_nms_thr": 1.0, "evaluate.keypoint_score_thr": 0.0})
    project.must("dvc", "repro")
    return project


@pytest.fixture(scope="module")
def sure(plain: Project, tmp_path_factory: pytest.TempPathFactory) -> Detected:
    folder = tmp_path_factory.mktemp("sure")
    project = plain.copy(folder)
    records = true_boxes(plain)
    return Detected(project, records, use(project, records, folder / "boxes of val.json"))


@pytest.fixture(scope="module")
def unsure(sure: Detected, tmp_path_factory: pytest.TempPathFactory) -> Detected:
    folder = tmp_path_factory.mktemp("unsure")
    project = sure.project.copy(folder)
    records = as_a_detector_finds_them(project)
    return Detected(project, records, use(project, records, folder / "boxes.json"))


def predictions(project: Project) -> dict[str, Any]:
    return {phase: project.json(f"data/predictions/{phase}.json") for phase in PHASES}


def metrics(project: Project) -> dict[str, float]:
    found = project.json("metrics/evaluate/metrics.json")
    del found["boxes"]
    return found


@pytest.mark.parametrize("name", ["sure", "unsure"])
def test_nothing_is_trained_again(request: pytest.FixtureRequest, name: str) -> None:
    assert ran(request.getfixturevalue(name).output) == RERUN


def test_true_boxes_give_what_the_ground_truth_gives(plain: Project, sure: Detected) -> None:
    """But for grey levels: without keypoints the crop is cut narrower, so its JPEG is another.

    These models have learnt nothing, and near-flat maps turn that into parts of a pixel.
    """
    truth = predictions(plain)
    for phase, found in predictions(sure.project).items():
        assert [one["image_id"] for one in found] == [one["image_id"] for one in truth[phase]]
        mine, theirs = (
            np.array([one["keypoints"] for one in some]) for some in (found, truth[phase])
        )
        assert np.median(np.abs(mine - theirs)) < 0.5
        scores = [[one["score"] for one in some] for some in (found, truth[phase])]
        np.testing.assert_allclose(*scores, rtol=0.05)
    assert metrics(sure.project) == pytest.approx(metrics(plain), abs=0.05)


def test_every_person_box_of_val_is_predicted_in(unsure: Detected) -> None:
    ids = {image["id"] for image in unsure.project.json("data/cache/ground_truth.json")["images"]}
    mine = [one for one in unsure.records if one["category_id"] == 1 and one["image_id"] in ids]
    assert len(mine) == len(unsure.records) * 3 / 5
    assert unsure.project.json("metrics/build_cache/metrics.json")["detections"] == len(mine)
    for found in predictions(unsure.project).values():
        assert len(found) == len(mine)
        for image_id in ids:
            expected = sum(one["image_id"] == image_id for one in mine)
            assert sum(one["image_id"] == image_id for one in found) == expected


def box_scores(found: list[dict[str, Any]]) -> list[float]:
    """What rescoring multiplied the mean of the positive keypoint scores with."""
    keypoints = np.array([one["keypoints"] for one in found])[:, 2::3]
    keypoints = np.maximum(keypoints, 0)
    means = keypoints.sum(axis=1) / (keypoints > 0).sum(axis=1)
    return sorted(np.array([one["score"] for one in found]) / means)


def test_the_detectors_scores_weigh(plain: Project, unsure: Detected) -> None:
    scores = [
        one["score"]
        for one in unsure.records
        if one["category_id"] == 1 and one["image_id"] != 10**9
    ]
    for phase in PHASES:
        assert box_scores(predictions(unsure.project)[phase]) == pytest.approx(
            sorted(scores), abs=0.01
        )
        np.testing.assert_allclose(box_scores(predictions(plain)[phase]), 1, atol=0.01)


def test_pictures_show_each_person_in_its_own_box(plain: Project, unsure: Detected) -> None:
    """Moved by some pixels, so the pose is another; found all the same."""
    table = CropTable(plain.root / "data/cache/val")
    persons = unsure.project.json("data/predictions/persons.json")
    before = plain.json("data/predictions/persons.json")
    assert [one["row"] for one in persons] == [one["row"] for one in before]
    for one, other in zip(persons, before, strict=True):
        assert one["keypoints"] != other["keypoints"]
        centre, scale = bbox_to_center_scale(table.bbox_xywh[one["row"]], 1.25, (72, 96))
        off_centre = np.abs(np.array(one["keypoints"]) - centre)
        assert (np.median(off_centre, axis=0) < scale / 2).all()  # DARK may throw single ones out


@pytest.mark.parametrize(
    ("name", "boxes"),
    [("plain", "ground truth"), ("sure", "detections.json"), ("unsure", "detections.json")],
)
def test_metrics_and_report_name_the_boxes(
    request: pytest.FixtureRequest, name: str, boxes: str
) -> None:
    found = request.getfixturevalue(name)
    project = found if isinstance(found, Project) else found.project
    assert project.json("metrics/evaluate/metrics.json")["boxes"] == boxes
    assert f"boxes: {boxes}." in (project.root / "report/index.html").read_text()


def test_the_file_is_kept_as_it_was(unsure: Detected) -> None:
    kept = unsure.project.root / "data/coco/detections.json"
    assert kept.read_bytes() == (unsure.project.root / "../../boxes.json").read_bytes()


def test_without_the_file_all_is_as_before(
    plain: Project, unsure: Detected, tmp_path: Path
) -> None:
    project = unsure.project.copy(tmp_path)
    project.set(**{"data.detections": None})
    assert ran(project.must("dvc", "repro")) == ["report"]  # its Markdown is in git
    for name in ("data/coco", "data/cache", "data/predictions", "metrics"):
        assert project.content(name) == plain.content(name)


def test_workers_do_not_show_in_the_cache(unsure: Detected, tmp_path: Path) -> None:
    project = unsure.project.copy(tmp_path)
    project.set(**{"data.shard_persons": 3})
    caches = []
    for project.workers in (1, 2):
        log = project.must_stage("build_cache")
        assert "of other categories" in log
        caches.append(project.content("data/cache"))
    assert caches[0] == caches[1]
    assert "data/cache/detections/00003.arrow" in caches[0]


def test_a_killed_runs_file_is_not_taken_for_ours(project: Project) -> None:
    left = project.root / "data/resume/download_coco-synthetic/detections.json"
    left.parent.mkdir(parents=True)
    left.write_text("[]")
    before = project.content("data/coco")
    project.must_stage("download_coco")
    assert project.content("data/coco") == before
