"""How well keypoint scores show whether a keypoint is right, raw and calibrated.

A keypoint is right if its similarity to the ground truth, exp(-d^2 / 2 s^2 k^2), is above 0.5: it
counts as found in keypoints.csv. Only labelled keypoints of val in a predicted box count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pose.analysis.breakdown import FOUND_SIMILARITY, calibration_error, score_bins
from pose.analysis.calibration import Array, Bools, Calibration, cross_fit, fit_points
from pose.analysis.matching import keypoint_similarity
from pose.analysis.tables import PersonPoses, Val

ECE_NAMES = {"raw": "keypoint_ECE", "calibrated": "keypoint_ECE_calibrated"}  # in metrics.json


@dataclass(frozen=True)
class ScoredKeypoints:
    """Keypoints whose outcome is known."""

    scores: Array  # (M,) raw
    right: Bools  # (M,)
    image_ids: NDArray[np.int64]  # (M,)


def scored_keypoints(val: Val, person_poses: PersonPoses) -> ScoredKeypoints:
    """The labelled keypoints of all people with a box."""
    predictions = person_poses.predictions
    similarity = keypoint_similarity(val.persons, predictions, val.sigmas)
    known = ~np.isnan(similarity) & np.isfinite(predictions.keypoints).all(axis=2)
    image_ids = np.broadcast_to(val.persons.image_id[predictions.rows][:, None], known.shape)
    right = similarity[known] > FOUND_SIMILARITY
    return ScoredKeypoints(predictions.scores[known], right, image_ids[known])


def fit_calibration(
    keypoints: ScoredKeypoints, weights_sha256: str, flip_test: bool
) -> Calibration | None:
    """The map of all keypoints; None if there are none."""
    count = len(keypoints.scores)
    if not count:
        return None
    points = fit_points(keypoints.scores, keypoints.right)
    scores, probabilities = (tuple(values.round(6).tolist()) for values in points)
    return Calibration(weights_sha256, flip_test, count, scores, probabilities)


def reliability_table(keypoints: ScoredKeypoints) -> pd.DataFrame:
    """Mean score and share right per bin of the score: raw scores, then cross-fitted ones."""
    calibrated = cross_fit(keypoints.scores, keypoints.right, keypoints.image_ids)
    kinds = {"raw": keypoints.scores, "calibrated": calibrated}
    tables = [
        score_bins(scores, keypoints.right, "right").assign(scores=kind)
        for kind, scores in kinds.items()
        if scores is not None
    ]
    return pd.concat(tables)


def keypoint_errors(table: pd.DataFrame) -> dict[str, float]:
    """Expected calibration error of each kind of scores in reliability_table, by ECE_NAMES."""
    return {
        ECE_NAMES[str(kind)]: round(calibration_error(rows, "right"), 4)
        for kind, rows in table.groupby("scores", sort=False)
    }
