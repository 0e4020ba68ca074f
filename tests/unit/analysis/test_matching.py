"""Matches of results and boxes with people, and similarity, against COCOeval and by hand."""

from __future__ import annotations

import contextlib
import io
import math
from functools import partial

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pose.analysis import matching
from pose.common.skeleton import COCO_OKS_SIGMAS
from pose.crop_table import CropTable
from pose.evaluation import coco_metrics
from pose.evaluation.predict import Predictions
from predictions import areas_of, numbered_predictions, perfect_predictions

coco_eval = partial(coco_metrics.coco_eval, sigmas=COCO_OKS_SIGMAS)
keypoint_similarity = partial(matching.keypoint_similarity, sigmas=COCO_OKS_SIGMAS)
to_results = partial(coco_metrics.to_results, sigmas=COCO_OKS_SIGMAS, category_id=1)


def test_person_oks_is_that_of_coco(crop_table: CropTable, truth) -> None:
    rng = np.random.default_rng(3)
    found = perfect_predictions(crop_table)
    found = Predictions(found.keypoints + rng.normal(0, 4, (5, 17, 2)), found.scores, found.rows)
    similarity = keypoint_similarity(crop_table, found)
    assert np.isnan(similarity[2]).tolist() == [False] * 8 + [True] * 9
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
    mine = matching.person_oks(similarity)
    for i, row in enumerate(found.rows):
        one = Predictions(found.keypoints[[i]], found.scores[[i]], found.rows[[i]])
        results = to_results(crop_table, one, np.ones(1), 0.2, 0.9)
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(coco, coco.loadRes(results), "keypoints")
            run.params.imgIds = [int(crop_table.image_id[row])]
            run._prepare()
            image_id = run.params.imgIds[0]
            ids = [truth["id"] for truth in run._gts[image_id, 1]]
            theirs = run.computeOks(image_id, 1)[0, ids.index(crop_table.ann_id[row])]
        assert mine[i] == pytest.approx(theirs, abs=1e-4)


def test_an_annotation_may_have_the_id_0(crop_table: CropTable, truth) -> None:
    """pycocotools alone takes it for no match."""
    found = perfect_predictions(crop_table)
    results = to_results(crop_table, found, areas_of(found), 0.2, 0.9)
    expected = coco_metrics.coco_eval(truth, results, COCO_OKS_SIGMAS)
    before = matching.match_results(truth, results, COCO_OKS_SIGMAS, 0.5)
    first = truth["annotations"][0]["id"]
    for one in truth["annotations"]:
        one["id"] -= first
    assert coco_metrics.coco_eval(truth, results, COCO_OKS_SIGMAS) == expected
    after = matching.match_results(truth, results, COCO_OKS_SIGMAS, 0.5)
    assert [m.annotation for m in after] == [m.annotation - first for m in before]
    assert 0 in [m.annotation for m in after]


def test_matches_are_of_results_and_persons(crop_table: CropTable, truth) -> None:
    """Five perfect poses, a pose of nobody, and one on person 12, who has no keypoints."""
    found = perfect_predictions(crop_table)
    results = to_results(crop_table, found, areas_of(found), 0.2, 0.9)
    nobody = {**results[0], "keypoints": [900.0] * 51, "score": 0.1}
    unlabelled = {**results[0], "keypoints": [110.0, 40, 1] * 17, "score": 0.2}
    matches = matching.match_results(truth, [nobody, *results, unlabelled], COCO_OKS_SIGMAS, 0.1)
    assert matching.Match(0, None, 0.0) in matches
    assert 6 not in [match.result for match in matches]
    assert sorted(m.annotation for m in matches if m.annotation) == [11, 13, 14, 15, 16]
    assert all(m.oks == pytest.approx(1) for m in matches if m.annotation)
    by_image = {one["id"]: one["image_id"] for one in truth["annotations"]}
    for match in matches:
        if match.annotation:
            assert results[match.result - 1]["image_id"] == by_image[match.annotation]


def test_ap_by_area_is_cocos(crop_table: CropTable, truth) -> None:
    found = perfect_predictions(crop_table)
    moved = found.keypoints + np.random.default_rng(1).normal(0, 4, found.keypoints.shape)
    moved = Predictions(moved, found.scores, found.rows)
    results = to_results(crop_table, moved, areas_of(moved), 0.2, 0.9)
    ranges = [(0.0, 1e10), (32.0**2, 96.0**2), (1e9, 1e10)]
    aps = matching.average_precision(truth, results, COCO_OKS_SIGMAS, ranges)
    stats = coco_eval(truth, results)
    assert aps[:2] == [stats["AP"], stats["APm"]]
    assert math.isnan(aps[2])
    assert matching.average_precision(truth, [], COCO_OKS_SIGMAS, ranges) == [0, 0, 0]


@pytest.mark.parametrize(
    ("boxes", "others", "expected"),
    [
        ([], [], []),
        ([[0, 0, 9, 9]], [], [-1]),
        ([], [[0, 0, 9, 9]], []),
        ([[0, 0, 10, 10]], [[0, 0, 10, 5]], [0]),  # IoU 0.5
        ([[0, 0, 10, 10]], [[0, 0, 10, 4.9]], [-1]),
        ([[0, 0, 10, 10]], [[0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 10, 10]], [1]),
        ([[0, 0, 10, 10], [0, 0, 10, 8]], [[0, 0, 10, 8.1]], [-1, 0]),
        ([[0, 0, 10, 10], [0, 0, 10, 8]], [[0, 0, 10, 8.1], [0, 0, 10, 6]], [1, 0]),
    ],
)
def test_match_boxes(boxes, others, expected) -> None:
    found = matching.match_boxes(*(np.array(b, float).reshape(-1, 4) for b in (boxes, others)))
    assert found.tolist() == expected


def test_assign_goes_by_boxes(crop_table: CropTable, detected_table: CropTable) -> None:
    """Labelled are 11, 13, 14, 15, 16 in rows 0, 2, 3, 4, 5; only 11 has a box that shows it."""
    found = matching.assign(crop_table, detected_table, numbered_predictions(detected_table))
    assert found.rows.tolist() == [0, 2, 3, 4, 5]
    assert (found.keypoints[0] == 1000).all()
    assert np.isinf(found.keypoints[1:]).all()
    assert found.scores[:, 5].tolist() == [0.5, 0, 0, 0, 0]
    similarity = keypoint_similarity(crop_table, found)
    assert matching.person_oks(similarity)[1:].tolist() == [0, 0, 0, 0]
    labelled = crop_table.keypoints[found.rows][..., 2] > 0
    np.testing.assert_array_equal(~np.isnan(similarity), labelled)


def test_assign_gives_a_persons_own_box_back(crop_table: CropTable) -> None:
    rng = np.random.default_rng(5)
    order = rng.permutation(5)
    found = perfect_predictions(crop_table)
    turned = Predictions(found.keypoints[order], found.scores[order], found.rows[order])
    same = matching.assign(crop_table, crop_table, turned)
    np.testing.assert_array_equal(same.keypoints, found.keypoints)
    np.testing.assert_array_equal(same.rows, found.rows)


def test_assign_of_nobody(crop_table: CropTable) -> None:
    nobody = Predictions(np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros(0, np.int64))
    found = matching.assign(crop_table, crop_table, nobody)
    assert np.isinf(found.keypoints).all()
    assert len(found.rows) == 5
