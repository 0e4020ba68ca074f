"""Which keypoints count, and the errors of their scores before and after calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pose.analysis.calibration import Calibration
from pose.analysis.reliability import (
    ScoredKeypoints,
    fit_calibration,
    keypoint_errors,
    reliability_table,
    scored_keypoints,
)
from pose.analysis.tables import COLUMNS, Val, poses_per_person
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings
from pose.data.samples import TestSamples
from predictions import numbered_predictions, perfect_predictions


def overconfident(count: int) -> ScoredKeypoints:
    """Keypoints of ten images that are right half as often as their score says."""
    rng = np.random.default_rng(0)
    scores = rng.random(count)
    return ScoredKeypoints(scores, rng.random(count) < scores / 2, np.arange(count) % 10)


def test_labelled_keypoints_count_and_the_moved_one_is_wrong(
    crop_table: CropTable, crop_settings: CropSettings, truth: dict[str, Any]
) -> None:
    samples = TestSamples(crop_table, crop_table.labelled(), 1.25, crop_settings.codec)
    val = Val(samples, "ground truth", crop_table, truth, COCO_17, COCO_OKS_SIGMAS)
    predictions = perfect_predictions(crop_table)
    predictions.keypoints[3, 0] += 500
    found = scored_keypoints(val, poses_per_person(val, predictions, 0.2))
    labelled = crop_table.keypoints[predictions.rows][..., 2] > 0
    assert labelled[3, 0]
    assert found.right.tolist() == [at != (3, 0) for at in zip(*np.nonzero(labelled), strict=True)]
    ids = crop_table.image_id[predictions.rows].repeat(17).reshape(-1, 17)
    assert found.image_ids.tolist() == ids[labelled].tolist()
    assert found.scores.tolist() == [0.9] * labelled.sum()


def test_a_person_without_a_box_does_not_count(
    detected_val: Val, detected_table: CropTable
) -> None:
    poses = poses_per_person(detected_val, numbered_predictions(detected_table), 0.2)
    found = scored_keypoints(detected_val, poses)
    assert set(found.image_ids.tolist()) == {1}
    assert len(found.scores) == 17
    assert not found.right.any()


def test_errors_before_and_after() -> None:
    """The mean gap between a score and half of it is a quarter; the map closes it."""
    table = reliability_table(overconfident(5000))
    assert set(table) == set(COLUMNS["keypoint_scores"])
    assert table.groupby("scores")["count"].sum().tolist() == [5000, 5000]
    errors = keypoint_errors(table)
    assert errors["keypoint_ECE"] == pytest.approx(0.25, abs=0.02)
    assert errors["keypoint_ECE_calibrated"] < 0.04


def test_one_image_has_no_error_after() -> None:
    keypoints = overconfident(100)
    one = ScoredKeypoints(keypoints.scores, keypoints.right, np.zeros(100, np.int64))
    assert list(keypoint_errors(reliability_table(one))) == ["keypoint_ECE"]


def test_the_map_of_all_keypoints() -> None:
    found = fit_calibration(overconfident(5000), "ab", False)
    assert isinstance(found, Calibration)
    assert (found.weights_sha256, found.flip_test, found.keypoints) == ("ab", False, 5000)
    assert found(np.array([0.2, 0.8])) == pytest.approx([0.1, 0.4], abs=0.08)
    assert (np.diff(found.probabilities) > 0).all()


def test_without_keypoints_there_is_no_map_and_the_table_is_empty() -> None:
    none = ScoredKeypoints(np.empty(0), np.empty(0, bool), np.empty(0, np.int64))
    assert fit_calibration(none, "", True) is None
    table = reliability_table(none)
    assert table[COLUMNS["keypoint_scores"]].empty
    assert keypoint_errors(table) == {}
