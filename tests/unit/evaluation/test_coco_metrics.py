"""OKS, its NMS, rescoring and COCOeval on cases small enough to know."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pose.common.errors import PoseError
from pose.common.skeleton import COCO_OKS_SIGMAS
from pose.crop_table import CropTable
from pose.evaluation import coco_metrics
from pose.evaluation.predict import Predictions
from predictions import areas_of, numbered_predictions, perfect_predictions

oks = partial(coco_metrics.oks, sigmas=COCO_OKS_SIGMAS)
oks_nms = partial(coco_metrics.oks_nms, sigmas=COCO_OKS_SIGMAS)
coco_eval = partial(coco_metrics.coco_eval, sigmas=COCO_OKS_SIGMAS)
to_results = partial(coco_metrics.to_results, sigmas=COCO_OKS_SIGMAS, category_id=1)


def test_oks_by_hand() -> None:
    """All keypoints 3 px off but one: exp(-9 / (2 (2 sigma)^2 area)), the mean over 17."""
    pose = np.zeros((17, 2))
    other = np.tile([3.0, 0.0], (17, 1))
    other[4] = 0
    area = 1000.0
    terms = [math.exp(-9 / (2 * (2 * s) ** 2 * area)) for s in COCO_OKS_SIGMAS]
    terms[4] = 1.0
    found = oks(pose, other[None], 600.0, np.array([1400.0]))
    assert found[0] == pytest.approx(sum(terms) / 17, rel=1e-9)


def test_oks_of_nobody() -> None:
    assert len(oks(np.zeros((17, 2)), np.zeros((0, 17, 2)), 1.0, np.zeros(0))) == 0


@pytest.mark.parametrize(
    ("offsets", "scores", "kept"),
    [
        ([], [], []),
        ([0], [0.1], [0]),
        ([0, 0], [0.1, 0.2], [1]),
        ([0, 500], [0.1, 0.2], [1, 0]),
        ([0, 0, 0], [0.2, 0.2, 0.2], [2]),  # of equals the last
        ([0, 500, 0], [0.2, 0.2, 0.2], [2, 1]),
        ([0, 1, 500, 501], [0.9, 0.8, 0.3, 0.4], [0, 3]),
        ([0, 6, 12], [0.5, 0.9, 0.4], [1]),  # both neighbours go with the middle
        ([0, 6, 12], [0.9, 0.5, 0.4], [0, 2]),  # the middle goes, and can drop no one any more
    ],
)
def test_oks_nms(offsets, scores, kept) -> None:
    poses = np.random.default_rng(0).uniform(0, 100, (1, 17, 2))
    poses = poses + np.array(offsets, float)[:, None, None] * [1, 0]
    areas = np.full(len(offsets), 5000.0)
    found = oks_nms(poses.reshape(-1, 17, 2), np.array(scores, float), areas, 0.5)
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
    found = coco_metrics.rescore(np.array([scores]), np.array([0.5]), 0.2)
    assert found[0] == pytest.approx(0.5 * expected)


def test_ties_of_many_keep_the_later_first() -> None:
    """NumPy's default sort is not stable beyond 16 values."""
    poses = np.arange(40)[:, None, None] * np.full((1, 17, 2), 1e4)
    scores = np.tile([0.25, 0.5], 20)
    found = oks_nms(poses, scores, np.full(40, 5e3), 0.9)
    assert found.tolist() == [*range(39, 0, -2), *range(38, -1, -2)]


def test_similarity_at_the_threshold_is_kept() -> None:
    poses = np.zeros((2, 17, 2))  # oks is 1
    assert len(oks_nms(poses, np.ones(2), np.ones(2), 1.0)) == 2
    assert len(oks_nms(poses, np.ones(2), np.ones(2), 0.999)) == 1


def test_perfect_predictions_score_one(crop_table: CropTable, truth) -> None:
    found = perfect_predictions(crop_table)
    results = to_results(crop_table, found, areas_of(found), 0.2, 0.9)
    assert len(results) == 5
    assert {r["image_id"] for r in results} == {1, 2, 3}
    assert all(r["category_id"] == 1 and len(r["keypoints"]) == 51 for r in results)
    stats = coco_eval(truth, results)
    assert tuple(stats) == coco_metrics.STATS
    assert stats["AP"] == stats["AP50"] == stats["AR"] == pytest.approx(1)


def test_results_of_nobody(crop_table: CropTable, truth) -> None:
    assert coco_eval(truth, []) == dict.fromkeys(coco_metrics.STATS, 0.0)
    nobody = Predictions(np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros(0, np.int64))
    assert to_results(crop_table, nobody, np.zeros(0), 0.2, 0.9) == []


def test_nms_works_image_by_image(crop_table: CropTable) -> None:
    """The same pose in two images is two persons; twice in one image it is one."""
    rows = np.array([0, 2, 4])  # of images 1, 2, 3
    keypoints = np.tile(np.random.default_rng(0).uniform(20, 60, (1, 17, 2)), (3, 1, 1))
    found = Predictions(keypoints, np.full((3, 17), 0.5), rows)
    assert len(to_results(crop_table, found, np.full(3, 5e3), 0.2, 0.9)) == 3
    found = Predictions(keypoints, np.full((3, 17), 0.5), np.array([0, 4, 5]))
    assert len(to_results(crop_table, found, np.full(3, 5e3), 0.2, 0.9)) == 2


def test_numbers_equal_pycocotools_run_by_hand(
    tmp_path: Path, crop_table: CropTable, truth
) -> None:
    rng = np.random.default_rng(2)
    found = perfect_predictions(crop_table)
    found = Predictions(found.keypoints + rng.normal(0, 3, (5, 17, 2)), found.scores, found.rows)
    results = to_results(crop_table, found, areas_of(found), 0.2, 0.9)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        by_hand = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "keypoints")
        by_hand.evaluate()
        by_hand.accumulate()
        by_hand.summarize()
    stats = coco_eval(truth, results)
    assert list(stats.values()) == by_hand.stats.tolist()
    assert 0.2 < stats["AP"] < 0.95


BAD_RESULTS = [
    ({"keypoints": [1.0] * 24}, "record 1 has 24 numbers in 'keypoints', expected 51 (17 x 3)"),
    ({"keypoints": None}, "record 1 has 0 numbers in 'keypoints'"),
    ({"keypoints": [float("nan")] * 51}, "record 1 has a keypoint or score that is not a finite"),
    ({"score": float("inf")}, "record 1 has a keypoint or score that is not a finite number"),
    ({"score": None}, "record 1 has a keypoint or score that is not a finite number"),
    ({"image_id": 99}, "record 1 names image 99, which is not in 'images'"),
    ({"category_id": 2}, "record 1 has category_id 2, expected 1"),
]


@pytest.mark.parametrize(("spoilt", "expected"), BAD_RESULTS)
def test_results_of_something_else(crop_table: CropTable, truth, spoilt, expected: str) -> None:
    found = perfect_predictions(crop_table)
    results = to_results(crop_table, found, areas_of(found), 0.2, 0.9)
    results[1] |= spoilt
    with pytest.raises(PoseError, match=re.escape(f"results: {expected}")):
        coco_eval(truth, results)


def test_results_stay_as_they_are(crop_table: CropTable, truth) -> None:
    """pycocotools writes ids, areas and boxes into what it reads; the file gets none of them."""
    found = perfect_predictions(crop_table)
    results = to_results(crop_table, found, areas_of(found), 0.2, 0.9)
    coco_eval(truth, results)
    assert {*results[0]} == {"image_id", "category_id", "keypoints", "score"}


def test_final_scores_by_hand(detected_table: CropTable) -> None:
    results = to_results(detected_table, numbered_predictions(detected_table), np.ones(4), 0.2, 0.9)
    found = [(one["image_id"], one["score"]) for one in results]
    expected = [(1, 0.45), (1, 0.25), (2, 0.4), (2, 0.35)]
    assert [one[0] for one in found] == [one[0] for one in expected]
    assert [one[1] for one in found] == pytest.approx([one[1] for one in expected], rel=1e-6)


def test_scores_are_not_rounded_into_ties(detected_table: CropTable) -> None:
    detected_table.bbox_score = np.float32([1e-7, 2e-7, 3e-7, 4e-7])
    results = to_results(detected_table, numbered_predictions(detected_table), np.ones(4), 0.2, 0.9)
    assert len({one["score"] for one in results}) == 4


def test_a_row_predicted_twice_counts_once(detected_table: CropTable) -> None:
    """Even where NMS would keep both: the official metric drops equal ids before it."""
    once = numbered_predictions(detected_table)
    again = Predictions(once.keypoints + 500, once.scores, once.rows)
    columns = zip(vars(once).values(), vars(again).values(), strict=True)
    both = Predictions(*(np.concatenate(pair) for pair in columns))
    assert to_results(detected_table, both, np.ones(8), 0.2, 1.0) == to_results(
        detected_table, once, np.ones(4), 0.2, 1.0
    )


def test_results_do_not_depend_on_the_order_of_prediction(detected_table: CropTable) -> None:
    found, order = numbered_predictions(detected_table), [2, 0, 3, 1]
    turned = Predictions(*(column[order] for column in vars(found).values()))
    areas = np.array([1.0, 2, 3, 4])
    expected = to_results(detected_table, found, areas, 0.2, 0.9)
    assert to_results(detected_table, turned, areas[order], 0.2, 0.9) == expected


def test_false_positives_cost_precision(crop_table: CropTable, truth) -> None:
    """A false pose that scores above the three true ones of its area range lowers AP, below not."""
    found = perfect_predictions(crop_table)
    rows = np.append(found.rows, 1)  # person 12 has no keypoints: whatever is there is false
    poses = np.concatenate([found.keypoints, np.full((1, 17, 2), 5.0)])
    scores = np.full((6, 17), 0.9)
    aps = []
    for score in (0.95, 0.85):
        scores[5] = score
        results = to_results(
            crop_table, Predictions(poses, scores, rows), np.full(6, 5e3), 0.2, 0.9
        )
        assert len(results) == 6
        aps.append(coco_eval(truth, results)["AP"])
    assert aps[0] == pytest.approx(5 / 6, abs=0.01)
    assert aps[1] == pytest.approx(1)


def test_own_keypoints_have_their_own_sigmas() -> None:
    """Two keypoints of category 7: COCOeval, OKS and its numbers follow the sigmas given."""
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 7, "name": "mouse"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "bbox": [0, 0, 50, 50],
                "area": 1600.0,
                "iscrowd": 0,
                "num_keypoints": 2,
                "keypoints": [10, 10, 2, 30, 30, 2],
            }
        ],
    }
    pose = {"image_id": 1, "category_id": 7, "keypoints": [14, 10, 1, 30, 34, 1], "score": 0.9}
    aps = [
        coco_metrics.coco_eval(truth, [pose], np.array(s))["AP"] for s in ((1.0, 1.0), (0.01, 0.01))
    ]
    assert aps == [pytest.approx(1), 0]
    sigmas = np.array([0.05, 0.1])
    true = np.array([[10.0, 10], [30, 30]])
    moved = np.array([[[14.0, 10], [30, 34]]])
    expected = np.mean([math.exp(-16 / (2 * (2 * s) ** 2 * 1600)) for s in sigmas])
    found = coco_metrics.oks(true, moved, 1600.0, np.array([1600.0]), sigmas)
    assert found == pytest.approx(expected)
    above = 0.5 + 0.05 * np.arange(10) <= expected
    ap = coco_metrics.coco_eval(truth, [pose], sigmas)["AP"]
    assert ap == pytest.approx(above.mean())
    assert 0 < ap < 1
