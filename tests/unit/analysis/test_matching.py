"""Similarity and matches, compared with COCOeval and with values computed by hand."""

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
from pose.evaluation.keypoint_eval import read_people, read_poses
from pose.evaluation.predict import Predictions
from predictions import areas_of, numbered_predictions, perfect_predictions

coco_eval = partial(coco_metrics.coco_eval, sigmas=COCO_OKS_SIGMAS)
keypoint_similarity = partial(matching.keypoint_similarity, sigmas=COCO_OKS_SIGMAS)
to_results = partial(coco_metrics.to_results, sigmas=COCO_OKS_SIGMAS, category_id=1)


def test_person_oks_is_that_of_coco(crop_table: CropTable, truth) -> None:
    rng = np.random.default_rng(3)
    perfect = perfect_predictions(crop_table)
    keypoints = perfect.keypoints + rng.normal(0, 4, (5, 17, 2))
    predictions = Predictions(keypoints, perfect.scores, perfect.rows)
    similarity = keypoint_similarity(crop_table, predictions)
    assert np.isnan(similarity[2]).tolist() == [False] * 8 + [True] * 9
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
    oks = matching.person_oks(similarity)
    for i, row in enumerate(predictions.rows):
        single = Predictions(
            predictions.keypoints[[i]], predictions.scores[[i]], predictions.rows[[i]]
        )
        results = to_results(crop_table, single, np.ones(1), 0.2, 0.9)
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(coco, coco.loadRes(results), "keypoints")
            run.params.imgIds = [int(crop_table.image_id[row])]
            run._prepare()
            image_id = run.params.imgIds[0]
            ids = [truth["id"] for truth in run._gts[image_id, 1]]
            expected = run.computeOks(image_id, 1)[0, ids.index(crop_table.ann_id[row])]
        assert oks[i] == pytest.approx(expected, abs=1e-4)


def test_an_annotation_may_have_the_id_0(crop_table: CropTable, truth) -> None:
    """pycocotools itself reads a match with id 0 as unmatched."""
    predictions = perfect_predictions(crop_table)
    results = to_results(crop_table, predictions, areas_of(predictions), 0.2, 0.9)
    expected = coco_metrics.coco_eval(truth, results, COCO_OKS_SIGMAS)
    before = matching.match_results(truth, results, COCO_OKS_SIGMAS, 0.5)
    first = truth["annotations"][0]["id"]
    for annotation in truth["annotations"]:
        annotation["id"] -= first
    assert coco_metrics.coco_eval(truth, results, COCO_OKS_SIGMAS) == expected
    after = matching.match_results(truth, results, COCO_OKS_SIGMAS, 0.5)
    assert [m.annotation for m in after] == [m.annotation - first for m in before]
    assert 0 in [m.annotation for m in after]


def test_matches_are_of_results_and_persons(crop_table: CropTable, truth) -> None:
    """Five perfect poses, one far from every person, one on person 12, who has no keypoints."""
    predictions = perfect_predictions(crop_table)
    results = to_results(crop_table, predictions, areas_of(predictions), 0.2, 0.9)
    far_away = {**results[0], "keypoints": [900.0] * 51, "score": 0.1}
    unlabelled = {**results[0], "keypoints": [110.0, 40, 1] * 17, "score": 0.2}
    matches = matching.match_results(truth, [far_away, *results, unlabelled], COCO_OKS_SIGMAS, 0.1)
    assert matching.Match(0, None, 0.0) in matches
    assert 6 not in [match.result for match in matches]
    assert sorted(m.annotation for m in matches if m.annotation) == [11, 13, 14, 15, 16]
    assert all(m.oks == pytest.approx(1) for m in matches if m.annotation)
    by_image = {a["id"]: a["image_id"] for a in truth["annotations"]}
    for match in matches:
        if match.annotation:
            assert results[match.result - 1]["image_id"] == by_image[match.annotation]


def test_ap_by_area_is_cocos(crop_table: CropTable, truth) -> None:
    predictions = perfect_predictions(crop_table)
    moved = predictions.keypoints + np.random.default_rng(1).normal(
        0, 4, predictions.keypoints.shape
    )
    moved = Predictions(moved, predictions.scores, predictions.rows)
    results = to_results(crop_table, moved, areas_of(moved), 0.2, 0.9)
    ranges = [(0.0, 1e10), (32.0**2, 96.0**2), (1e9, 1e10)]
    people = read_people(truth, 17)
    poses = read_poses(truth, results, 17)
    aps = matching.average_precision(people, poses, COCO_OKS_SIGMAS, ranges)
    stats = coco_eval(truth, results)
    assert aps[:2] == [stats["AP"], stats["APm"]]
    assert math.isnan(aps[2])
    nothing = read_poses(truth, [], 17)
    assert matching.average_precision(people, nothing, COCO_OKS_SIGMAS, ranges) == [0, 0, 0]


@pytest.mark.parametrize(
    ("boxes", "candidates", "expected"),
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
def test_match_boxes(boxes, candidates, expected) -> None:
    matches = matching.match_boxes(
        *(np.array(b, float).reshape(-1, 4) for b in (boxes, candidates))
    )
    assert matches.tolist() == expected


def test_predictions_are_assigned_by_boxes(
    crop_table: CropTable, detected_table: CropTable
) -> None:
    """Labelled are 11, 13, 14, 15, 16 in rows 0, 2, 3, 4, 5; only 11 has a matching box."""
    assigned = matching.assign_predictions(
        crop_table, detected_table, numbered_predictions(detected_table)
    )
    assert assigned.rows.tolist() == [0, 2, 3, 4, 5]
    assert (assigned.keypoints[0] == 1000).all()
    assert np.isinf(assigned.keypoints[1:]).all()
    assert assigned.scores[:, 5].tolist() == [0.5, 0, 0, 0, 0]
    similarity = keypoint_similarity(crop_table, assigned)
    assert matching.person_oks(similarity)[1:].tolist() == [0, 0, 0, 0]
    labelled = crop_table.keypoints[assigned.rows][..., 2] > 0
    np.testing.assert_array_equal(~np.isnan(similarity), labelled)


def test_predictions_in_ground_truth_boxes_are_assigned_to_their_people(
    crop_table: CropTable,
) -> None:
    rng = np.random.default_rng(5)
    order = rng.permutation(5)
    perfect = perfect_predictions(crop_table)
    shuffled = Predictions(perfect.keypoints[order], perfect.scores[order], perfect.rows[order])
    assigned = matching.assign_predictions(crop_table, crop_table, shuffled)
    np.testing.assert_array_equal(assigned.keypoints, perfect.keypoints)
    np.testing.assert_array_equal(assigned.rows, perfect.rows)


def test_assign_without_predictions(crop_table: CropTable) -> None:
    empty = Predictions(np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros(0, np.int64))
    assigned = matching.assign_predictions(crop_table, crop_table, empty)
    assert np.isinf(assigned.keypoints).all()
    assert len(assigned.rows) == 5
