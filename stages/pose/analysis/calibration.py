"""A map from a keypoint's raw score to the probability that the keypoint is right.

It is an isotonic regression (Zadrozny and Elkan, KDD 2002), by pooling adjacent violators (Ayer et
al., 1955).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
CALIBRATION_FILE = "calibration.json"  # in data/predictions; null without a scored keypoint
FOLDS = 5
BIN_KEYPOINTS = 20  # at least so many per point of the map: of one, the share right is 0 or 1


@dataclass(frozen=True)
class Calibration:
    """Points (score, probability) that never fall, linear between them, constant outside.

    They hold for one file of weights, with or without the flip test.
    """

    weights_sha256: str
    flip_test: bool
    keypoints: int  # so many were used
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: Array) -> Array:
        """Probabilities, 0..1, of raw scores of any shape.

        >>> calibration = Calibration("", True, 40, (0.2, 0.6), (0.5, 0.9))
        >>> calibration(np.array([0.1, 0.4, 0.7])).round(3)
        array([0.5, 0.7, 0.9])
        """
        probabilities: Array = np.interp(scores, self.scores, self.probabilities)
        return probabilities


def fit_points(scores: Array, right: Bools) -> tuple[Array, Array]:
    """Scores and probabilities (P,) of the map's points, from raw scores and outcomes (M,), M > 0.

    Keypoints are binned by their score first, at least BIN_KEYPOINTS of them in each bin.
    """
    order = np.argsort(scores, kind="stable")
    pooled: list[Array] = []  # sums of score and right, count
    for part in np.array_split(order, max(1, len(order) // BIN_KEYPOINTS)):
        pooled.append(np.array([scores[part].sum(), right[part].sum(), len(part)], dtype=float))
        while len(pooled) > 1 and not _rises(pooled[-2], pooled[-1]):
            pooled.append(pooled.pop() + pooled.pop())
    totals = np.stack(pooled)
    return totals[:, 0] / totals[:, 2], totals[:, 1] / totals[:, 2]


def _rises(before: Array, after: Array) -> bool:
    """Whether mean score and share right are both higher in the second bin."""
    return bool((after[:2] * before[2] > before[:2] * after[2]).all())


def cross_fit(scores: Array, right: Bools, image_ids: NDArray[np.int64]) -> Array | None:
    """Probabilities (M,), each by a map fitted on other images; None if there is one image only."""
    images, image = np.unique(image_ids, return_inverse=True)
    if len(images) < 2:
        return None
    fold = image % FOLDS
    probabilities = np.empty(len(fold))
    for number in np.unique(fold):
        inside = fold == number
        points = fit_points(scores[~inside], right[~inside])
        probabilities[inside] = np.interp(scores[inside], *points)
    return probabilities
