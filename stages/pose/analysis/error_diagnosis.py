"""What is wrong with wrong keypoints: jitter, inversion, swap or miss, and what each costs in AP.

Source: Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation",
ICCV 2017, and its code (matteorr/coco-analyze). Similarity is OKS of a single keypoint. Two
differences from that code: a corrected keypoint is placed where its similarity is exactly the
intended one (the code uses sigma instead of 2 sigma there), and a similarity of exactly 0.85 is
good.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pose.analysis.matching import Match, average_precision
from pose.evaluation.keypoint_eval import read_people, read_poses

Array = NDArray[np.float64]
Json = dict[str, Any]
MATCH_OKS = 0.1  # lowest OKS at which a result is matched to a person
NEAR, GOOD = 0.5, 0.85  # lowest similarity of a keypoint that is not missed, that is good
KINDS = ("good", "jitter", "inversion", "swap", "miss")
CORRECTED = ("miss", "swap", "inversion", "jitter")  # in the order of correction


def error_table(
    truth: Json,
    results: list[Json],
    matches: list[Match],
    sigmas: Array,
    flip_indices: tuple[int, ...],
) -> pd.DataFrame:
    """Each kind's share of the labelled keypoints of matched persons, and the AP it costs.

    ap_gain is the rise in AP when this kind is corrected after those before it in CORRECTED.
    matches are those of match_results at MATCH_OKS.
    """
    errors = _keypoint_errors(truth, results, matches, sigmas, flip_indices)
    kinds = np.concatenate([error.kinds for error in errors]) if errors else np.empty(0, "U9")
    labelled = max((kinds != "").sum(), 1)
    gains = _ap_gains(truth, results, errors, sigmas)
    return pd.DataFrame(
        [
            {"kind": kind, "share": (kinds == kind).sum() / labelled, "ap_gain": gains.get(kind, 0)}
            for kind in KINDS
        ]
    )


class KeypointErrors(NamedTuple):
    """Index of a matched result, its keypoints' kinds (K,) and corrected places (K, 2), pixels."""

    result: int
    kinds: NDArray[np.str_]
    corrected: Array


def _keypoint_errors(
    truth: Json,
    results: list[Json],
    matches: list[Match],
    sigmas: Array,
    flip_indices: tuple[int, ...],
) -> list[KeypointErrors]:
    people_of_image: dict[int, list[Json]] = {}
    for annotation in truth["annotations"]:
        people_of_image.setdefault(annotation["image_id"], []).append(annotation)
    errors = []
    for match in matches:
        if match.annotation is None:
            continue
        result = results[match.result]
        people = _matched_first(people_of_image[result["image_id"]], match.annotation)
        keypoints = np.array([person["keypoints"] for person in people], float).reshape(
            len(people), -1, 3
        )
        areas = np.array([person["area"] for person in people], float)
        points = np.array(result["keypoints"], float).reshape(-1, 3)[:, :2]
        kinds, best = classify(points, keypoints, areas, sigmas, flip_indices)
        corrected = keypoints[0, :, :2].copy()
        corrected[:, 0] += _distance(_corrected_similarity(kinds, best), areas[0], sigmas)
        errors.append(KeypointErrors(match.result, kinds, corrected))
    return errors


def _matched_first(people: list[Json], annotation_id: int) -> list[Json]:
    return sorted(people, key=lambda person: person["id"] != annotation_id)


def classify(
    points: Array,
    keypoints: Array,
    areas: Array,
    sigmas: Array,
    flip_indices: tuple[int, ...],
) -> tuple[NDArray[np.str_], Array]:
    """The kind of each predicted point (K, 2), "" where unlabelled, and its best similarity (K,).

    keypoints (N, K, 3) and areas (N,) are those of the people of the image, the matched one first.
    The best similarity is the highest one to any person's keypoint or its mirror partner.
    """
    people = len(keypoints)
    candidates = np.concatenate([keypoints, keypoints[:, list(flip_indices)]])  # (2 N, K, 3)
    squared = ((candidates[..., :2] - points) ** 2).sum(axis=2)
    spread = 2 * (2 * sigmas) ** 2 * (np.tile(areas, 2) + np.spacing(1))[:, None]
    similarity = np.where(candidates[..., 2] > 0, np.exp(-squared / spread), -1.0)
    best, nearest = similarity.max(axis=0), similarity.argmax(axis=0)
    at_own_place = np.where(best >= GOOD, "good", "jitter")
    at_another = np.where(nearest == people, "inversion", "swap")  # `people`: own mirror partner
    near = np.where(nearest == 0, at_own_place, at_another)
    kinds = np.where(best >= NEAR, near, "miss")
    return np.where(keypoints[0, :, 2] > 0, kinds, ""), best


def _corrected_similarity(kinds: NDArray[np.str_], best: Array) -> Array:
    """The similarity (K,) of each keypoint after its correction.

    NEAR for a miss, GOOD for a jitter. An inverted or swapped keypoint gets the similarity to its
    own place that it had to the other one.
    """
    similarity = np.where(kinds == "miss", NEAR, np.where(kinds == "jitter", GOOD, best))
    return np.clip(similarity, NEAR, 1.0)


def _distance(similarity: Array, area: float, sigmas: Array) -> Array:
    """Distance in pixels at which a keypoint of a person of `area` has this similarity."""
    return np.sqrt(-2 * area * (2 * sigmas) ** 2 * np.log(similarity))


def _ap_gains(
    truth: Json, results: list[Json], errors: list[KeypointErrors], sigmas: Array
) -> dict[str, float]:
    people, poses = read_people(truth, len(sigmas)), read_poses(truth, results, len(sigmas))
    before = average_precision(people, poses, sigmas)[0]
    gains = {}
    for kind in CORRECTED:
        for error in errors:
            of_kind = error.kinds == kind
            poses.keypoints[error.result, of_kind] = error.corrected[of_kind]
        after = average_precision(people, poses, sigmas)[0]
        gains[kind], before = after - before, after
    return gains
