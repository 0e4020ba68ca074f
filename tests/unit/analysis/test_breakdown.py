"""Tables per keypoint, group and score, on cases small enough to compute by hand."""

from __future__ import annotations

import contextlib
import io
import math
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pose.analysis import breakdown
from pose.analysis.matching import Match, match_results
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.crop_table import CropTable
from pose.evaluation.coco_metrics import coco_eval, to_results
from pose.evaluation.predict import Predictions


@pytest.fixture
def predictions(crop_table: CropTable) -> Predictions:
    """The labelled persons' poses, some pixels off."""
    rows = crop_table.labelled()
    keypoints = crop_table.keypoints[rows][..., :2].astype(float)
    moved = keypoints + np.random.default_rng(4).normal(0, 3, keypoints.shape)
    return Predictions(moved, np.full((len(rows), 17), 0.9), rows)


@pytest.fixture
def results(crop_table: CropTable, predictions: Predictions) -> list[dict]:
    areas = np.full(len(predictions.rows), 5000.0)
    return to_results(crop_table, predictions, areas, 0.2, 0.9, COCO_OKS_SIGMAS, 1)


def test_keypoint_ap_is_that_of_annotations_with_this_keypoint_only(truth, results) -> None:
    """By hand: all other keypoints become unlabelled; results are unchanged.

    Persons without keypoints are left out: their match depends on the whole pose.
    """
    truth["annotations"] = breakdown.labelled_persons(truth)
    aps = breakdown.keypoint_ap(truth, results, COCO_OKS_SIGMAS)
    assert len(aps) == 17
    k = 9
    annotations = []
    for annotation in truth["annotations"]:
        keypoints = np.array(annotation["keypoints"], float).reshape(-1, 3)
        keypoints[np.arange(17) != k, 2] = 0
        count = int(keypoints[k, 2] > 0)
        annotations.append(
            {**annotation, "keypoints": keypoints.reshape(-1).tolist(), "num_keypoints": count}
        )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "annotations": annotations}
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes([dict(result) for result in results]), "keypoints")
        run.evaluate()
        run.accumulate()
        run.summarize()
    assert aps[k] == pytest.approx(run.stats[0], abs=1e-12)
    assert 0 < min(aps) < max(aps) <= 1


def test_keypoint_table_by_hand(crop_table: CropTable, truth, results, predictions) -> None:
    exact = crop_table.keypoints[predictions.rows][..., :2].astype(float)
    longer = crop_table.bbox_xywh[predictions.rows][:, 2:].max(axis=1)
    moved = exact.copy()
    moved[:, 3, 0] += 0.04 * longer
    moved[:, 4, 1] += 0.06 * longer
    moved_predictions = Predictions(moved, predictions.scores, predictions.rows)
    table = breakdown.keypoint_table(
        COCO_17.names, truth, results, crop_table, moved_predictions, COCO_OKS_SIGMAS, 0.05
    ).set_index("keypoint")
    assert table.loc["nose", "labelled"] == 5
    assert table.loc["right_ankle", "labelled"] == 3
    assert table["PCK"].drop(["left_ear", "right_ear"]).tolist() == [1.0] * 15
    assert (table.loc["left_ear", "PCK"], table.loc["right_ear", "PCK"]) == (1, 0)
    area = crop_table.area[predictions.rows]
    expected = np.exp(-((0.04 * longer) ** 2) / (2 * (2 * COCO_OKS_SIGMAS[3]) ** 2 * area))
    assert table.loc["left_ear", "oks"] == pytest.approx(expected.mean(), rel=1e-5)
    assert table.loc["left_ear", "found"] == (expected > 0.5).mean()


def test_a_person_without_a_box_has_no_correct_keypoint(crop_table: CropTable, predictions) -> None:
    lost = Predictions(
        np.full_like(predictions.keypoints, np.inf), predictions.scores * 0, predictions.rows
    )
    assert not breakdown.correct_keypoints(crop_table, lost, 10.0).any()


def test_medium_and_large_are_cocos(truth, results) -> None:
    oks = {annotation["id"]: 0.5 for annotation in truth["annotations"]}
    matches = match_results(truth, results, COCO_OKS_SIGMAS, 0.1)
    table = breakdown.group_table(truth, results, matches, COCO_OKS_SIGMAS, oks)
    sizes = table[table["group"] == "size"].set_index("bin")
    stats = coco_eval(truth, results, COCO_OKS_SIGMAS)
    assert sizes.loc["medium", "AP"] == pytest.approx(stats["APm"])
    assert math.isnan(sizes.loc["small", "AP"])
    assert stats["APl"] == -1  # no person is large
    assert sizes["persons"].tolist() == [0, 5, 0]
    for _, rows in table.groupby("group"):
        assert rows["persons"].sum() == 5
        assert rows["oks"].dropna().unique().tolist() == [0.5]


def annotation(id_: int, bbox: list[float], visibility: list[int]) -> dict:
    keypoints = [value for v in visibility for value in (1, 1, v)]
    counts = {"num_keypoints": sum(v > 0 for v in visibility), "iscrowd": 0}
    return {"id": id_, "image_id": 1, "bbox": bbox, "keypoints": keypoints, **counts}


def test_occlusion_by_hand() -> None:
    boxes = [
        annotation(1, [0, 0, 9, 9], [2, 2, 0]),
        annotation(2, [0, 0, 9, 9], [2, 2, 2, 1]),
        annotation(3, [0, 0, 9, 9], [2, 1, 0, 0]),
    ]
    assert breakdown.occlusion(boxes) == {
        1: "none hidden",
        2: "up to 1/4 hidden",
        3: "more hidden",
    }


def test_crowding_by_hand() -> None:
    """IoU: 1 and 2 share half of each, 3 touches 2 by less than a tenth, 4 to 6 coincide."""
    boxes = [[0, 0, 10, 10], [0, 5, 10, 10], [0, 14, 10, 10], *[[50, 50, 9, 9]] * 3]
    labels = breakdown.crowding([annotation(i, box, [2]) for i, box in enumerate(boxes, 1)])
    pair, crowd = ["one other"] * 2, ["more others"] * 3
    assert list(labels.values()) == [*pair, "alone", *crowd]


def occlusion_rows(truth, results) -> pd.DataFrame:
    matches = match_results(truth, results, COCO_OKS_SIGMAS, 0.1)
    table = breakdown.group_table(truth, results, matches, COCO_OKS_SIGMAS, {})
    return table[table["group"] == "occlusion"].set_index("bin")


def test_a_person_above_cocos_largest_area_is_of_no_size(truth, results) -> None:
    """As in COCOeval, which ignores it."""
    large = deepcopy(truth)
    person = next(one for one in large["annotations"] if one["num_keypoints"])
    person["area"] = 2e10
    counts = []
    for content in (truth, large):
        matches = match_results(content, results, COCO_OKS_SIGMAS, 0.1)
        table = breakdown.group_table(content, results, matches, COCO_OKS_SIGMAS, {})
        counts.append(table[table["group"] == "size"]["persons"].sum())
    assert counts[1] == counts[0] - 1


def test_a_bad_pose_lowers_only_the_ap_of_its_persons_bin(truth, results) -> None:
    """Only person 14 has up to a quarter hidden; an unmatched pose is added."""
    before = occlusion_rows(truth, results)
    assert before["persons"].tolist() == [0, 1, 4]
    matches = match_results(truth, results, COCO_OKS_SIGMAS, 0.1)
    (index,) = [match.result for match in matches if match.annotation == 14]
    worse = [dict(result) for result in results]
    worse[index]["keypoints"] = [value + 4 for value in worse[index]["keypoints"]]
    unmatched = {**results[0], "keypoints": [900.0] * 51, "score": 5.0}
    after = occlusion_rows(truth, [*worse, unmatched])
    assert 0 < after.loc["up to 1/4 hidden", "AP"] < before.loc["up to 1/4 hidden", "AP"]
    assert after.loc["more hidden", "AP"] == before.loc["more hidden", "AP"]


def test_pr_table_has_cocos_precision(truth, results) -> None:
    table = breakdown.pr_table(truth, results, COCO_OKS_SIGMAS)
    assert len(table) == 3 * 101
    stats = coco_eval(truth, results, COCO_OKS_SIGMAS)
    means = table.groupby("oks_thr")["precision"].mean()
    assert means[0.5] == pytest.approx(stats["AP50"])
    assert means[0.75] == pytest.approx(stats["AP75"])
    assert breakdown.pr_table(truth, [], COCO_OKS_SIGMAS).empty


def test_oks_table() -> None:
    table = breakdown.oks_table(np.array([0.0, 0.5, 0.72, 1.0])).set_index("oks_thr")["share"]
    assert (table[0.0], table[0.5], table[0.7], table[0.75], table[1.0]) == (
        1,
        0.75,
        0.5,
        0.25,
        0.25,
    )
    assert breakdown.oks_table(np.empty(0))["share"].eq(0).all()


def test_calibration_by_hand() -> None:
    """Of four results two are in one bin, one scores above 1; the third is unmatched."""
    results = [{"score": score} for score in (0.72, 0.78, 0.1, 1.4)]
    matches = [Match(0, 5, 0.9), Match(1, 6, 0.8), Match(2, None, 0.0), Match(3, 7, 0.9)]
    table = breakdown.calibration_table(results, matches)
    assert table["bin"].tolist() == ["0.1-0.2", "0.7-0.8", "0.9-1.0"]
    assert table["count"].tolist() == [1, 2, 1]
    assert table["score"].tolist() == pytest.approx([0.1, 0.75, 1.4])
    assert table["oks"].tolist() == pytest.approx([0.0, 0.85, 0.9])
    expected = (0.1 + 2 * 0.1 + 0.5) / 4
    assert breakdown.calibration_error(table) == pytest.approx(expected)


def test_calibration_without_results() -> None:
    table = breakdown.calibration_table([], [])
    assert isinstance(table, pd.DataFrame)
    assert breakdown.calibration_error(table) == 0
