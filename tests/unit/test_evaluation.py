"""OKS, its NMS, rescoring and COCOeval on cases small enough to know."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pose import evaluation
from pose.cache import CropTable
from pose.coco import read_annotations
from pose.inference import Predictions
from pose.skeleton import OKS_SIGMAS
from tiny import SPLIT


def test_oks_by_hand() -> None:
    """All keypoints 3 px off but one: exp(-9 / (2 (2 sigma)^2 area)), the mean over 17."""
    pose = np.zeros((17, 2))
    other = np.tile([3.0, 0.0], (17, 1))
    other[4] = 0
    area = 1000.0
    terms = [math.exp(-9 / (2 * (2 * s) ** 2 * area)) for s in OKS_SIGMAS]
    terms[4] = 1.0
    found = evaluation.oks(pose, other[None], 600.0, np.array([1400.0]))
    assert found[0] == pytest.approx(sum(terms) / 17, rel=1e-9)


def test_oks_of_nobody() -> None:
    assert len(evaluation.oks(np.zeros((17, 2)), np.zeros((0, 17, 2)), 1.0, np.zeros(0))) == 0


@pytest.mark.parametrize(
    ("offsets", "scores", "kept"),
    [
        ([], [], []),
        ([0], [0.1], [0]),
        ([0, 0], [0.1, 0.2], [1]),
        ([0, 500], [0.1, 0.2], [1, 0]),
        ([0, 1, 500, 501], [0.9, 0.8, 0.3, 0.4], [0, 3]),
        ([0, 6, 12], [0.5, 0.9, 0.4], [1]),  # both neighbours go with the middle
        ([0, 6, 12], [0.9, 0.5, 0.4], [0, 2]),  # the middle goes, and can drop no one any more
    ],
)
def test_oks_nms(offsets, scores, kept) -> None:
    poses = np.random.default_rng(0).uniform(0, 100, (1, 17, 2))
    poses = poses + np.array(offsets, float)[:, None, None] * [1, 0]
    areas = np.full(len(offsets), 5000.0)
    found = evaluation.oks_nms(poses.reshape(-1, 17, 2), np.array(scores, float), areas, 0.5)
    assert found.tolist() == kept


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0, 0.0], 0.0),
        ([0.2, 0.1], 0.0),
        ([0.2, 0.6], 0.6),
        ([0.3, 0.9], 0.6),
        ([-1.0, 1.2], 1.2),
    ],
)
def test_rescore_means_what_is_strictly_above(scores, expected: float) -> None:
    found = evaluation.rescore(np.array([scores]), np.array([0.5]), 0.2)
    assert found[0] == pytest.approx(0.5 * expected)


def perfect(table: CropTable) -> Predictions:
    rows = table.labelled()
    keypoints = table.keypoints[rows, :, :2].astype(float)
    return Predictions(keypoints, np.full((len(rows), 17), 0.9), rows)


def areas_of(found: Predictions) -> np.ndarray:
    return np.full(len(found.rows), 5000.0)


@pytest.fixture
def truth(tiny_coco) -> dict:
    found = read_annotations(tiny_coco.root, SPLIT)
    return {
        "images": found.images,
        "annotations": found.annotations,
        "categories": found.categories,
    }


def test_perfect_predictions_score_one(crop_table: CropTable, truth) -> None:
    found = perfect(crop_table)
    results = evaluation.to_results(crop_table, found, areas_of(found), 0.2, 0.9)
    assert len(results) == 5
    assert {r["image_id"] for r in results} == {1, 2, 3}
    assert all(r["category_id"] == 1 and len(r["keypoints"]) == 51 for r in results)
    stats = evaluation.coco_eval(truth, results)
    assert tuple(stats) == evaluation.STATS
    assert stats["AP"] == stats["AP50"] == stats["AR"] == pytest.approx(1)


def test_results_of_nobody(crop_table: CropTable, truth) -> None:
    assert evaluation.coco_eval(truth, []) == dict.fromkeys(evaluation.STATS, 0.0)
    nobody = Predictions(np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros(0, np.int64))
    assert evaluation.to_results(crop_table, nobody, np.zeros(0), 0.2, 0.9) == []


def test_nms_works_image_by_image(crop_table: CropTable) -> None:
    """The same pose in two images is two persons; twice in one image it is one."""
    rows = np.array([0, 2, 4])  # of images 1, 2, 3
    keypoints = np.tile(np.random.default_rng(0).uniform(20, 60, (1, 17, 2)), (3, 1, 1))
    found = Predictions(keypoints, np.full((3, 17), 0.5), rows)
    assert len(evaluation.to_results(crop_table, found, np.full(3, 5e3), 0.2, 0.9)) == 3
    found = Predictions(keypoints, np.full((3, 17), 0.5), np.array([0, 4, 5]))
    assert len(evaluation.to_results(crop_table, found, np.full(3, 5e3), 0.2, 0.9)) == 2


def test_numbers_equal_pycocotools_run_by_hand(
    tmp_path: Path, crop_table: CropTable, truth
) -> None:
    rng = np.random.default_rng(2)
    found = perfect(crop_table)
    found = Predictions(found.keypoints + rng.normal(0, 3, (5, 17, 2)), found.scores, found.rows)
    results = evaluation.to_results(crop_table, found, areas_of(found), 0.2, 0.9)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        by_hand = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "keypoints")
        by_hand.evaluate()
        by_hand.accumulate()
        by_hand.summarize()
    stats = evaluation.coco_eval(truth, results)
    assert list(stats.values()) == by_hand.stats.tolist()
    assert 0.2 < stats["AP"] < 0.95


def test_person_oks_is_that_of_coco(crop_table: CropTable, truth) -> None:
    rng = np.random.default_rng(3)
    found = perfect(crop_table)
    found = Predictions(found.keypoints + rng.normal(0, 4, (5, 17, 2)), found.scores, found.rows)
    similarity = evaluation.keypoint_similarity(crop_table, found)
    assert np.isnan(similarity[2]).tolist() == [False] * 8 + [True] * 9
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
    mine = evaluation.person_oks(similarity)
    for i, row in enumerate(found.rows):
        one = Predictions(found.keypoints[[i]], found.scores[[i]], found.rows[[i]])
        results = evaluation.to_results(crop_table, one, np.ones(1), 0.2, 0.9)
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(coco, coco.loadRes(results), "keypoints")
            run.params.imgIds = [int(crop_table.image_id[row])]
            run._prepare()
            image_id = run.params.imgIds[0]
            ids = [truth["id"] for truth in run._gts[image_id, 1]]
            theirs = run.computeOks(image_id, 1)[0, ids.index(crop_table.ann_id[row])]
        assert mine[i] == pytest.approx(theirs, abs=1e-4)
