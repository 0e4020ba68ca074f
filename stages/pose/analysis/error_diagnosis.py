"""What is wrong with wrong keypoints: jitter, inversion, swap or miss, and what each costs in AP.

Source: Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation",
ICCV 2017, and its code (matteorr/coco-analyze). Similarity is OKS's of one keypoint. Where we
differ: a corrected keypoint is put where its similarity is exactly the one meant (the code takes
sigma for 2 sigma there), and a similarity of exactly 0.85 is good.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pose.analysis.matching import Match, average_precision

Array = NDArray[np.float64]
Json = dict[str, Any]
MATCH_OKS = 0.1  # a result and a person belong together from here on
NEAR, GOOD = 0.5, 0.85  # similarity of a keypoint
KINDS = ("good", "jitter", "inversion", "swap", "miss")
CORRECTED = ("miss", "swap", "inversion", "jitter")  # one after the other


def error_table(
    truth: Json,
    results: list[Json],
    matches: list[Match],
    sigmas: Array,
    flip_indices: tuple[int, ...],
) -> pd.DataFrame:
    """Each kind's share of the labelled keypoints of matched persons, and the AP it costs.

    ap_gain is what AP rises by when this kind is corrected besides those before it in CORRECTED.
    matches are evaluation.match_results' at MATCH_OKS.
    """
    found = _analysed(truth, results, matches, sigmas, flip_indices)
    kinds = np.concatenate([one.kinds for one in found]) if found else np.empty(0, "U9")
    labelled = max((kinds != "").sum(), 1)
    gains = _gains(truth, results, found, sigmas)
    return pd.DataFrame(
        [
            {"kind": kind, "share": (kinds == kind).sum() / labelled, "ap_gain": gains.get(kind, 0)}
            for kind in KINDS
        ]
    )


class Analysed:
    """The keypoints of a matched result: kinds (K,) and where they belong (K, 2), image pixels."""

    def __init__(self, result: int, kinds: NDArray[np.str_], better: Array) -> None:
        self.result, self.kinds, self.better = result, kinds, better


def _analysed(
    truth: Json,
    results: list[Json],
    matches: list[Match],
    sigmas: Array,
    flip_indices: tuple[int, ...],
) -> list[Analysed]:
    neighbours: dict[int, list[Json]] = {}
    for one in truth["annotations"]:
        neighbours.setdefault(one["image_id"], []).append(one)
    found = []
    for match in matches:
        if match.annotation is None:
            continue
        result = results[match.result]
        people = _own_first(neighbours[result["image_id"]], match.annotation)
        keypoints = np.array([one["keypoints"] for one in people], float).reshape(
            len(people), -1, 3
        )
        areas = np.array([one["area"] for one in people], float)
        points = np.array(result["keypoints"], float).reshape(-1, 3)[:, :2]
        kinds, best = classify(points, keypoints, areas, sigmas, flip_indices)
        better = keypoints[0, :, :2].copy()
        better[:, 0] += _distance(_aim(kinds, best), areas[0], sigmas)
        found.append(Analysed(match.result, kinds, better))
    return found


def _own_first(people: list[Json], own: int) -> list[Json]:
    return sorted(people, key=lambda one: one["id"] != own)


def classify(
    points: Array,
    keypoints: Array,
    areas: Array,
    sigmas: Array,
    flip_indices: tuple[int, ...],
) -> tuple[NDArray[np.str_], Array]:
    """The kind of each of points (K, 2), "" where unlabelled, and its highest similarity (K,).

    keypoints (N, K, 3) and areas (N,) are of the image's persons, the first being the one meant.
    """
    people = len(keypoints)
    both = np.concatenate([keypoints, keypoints[:, list(flip_indices)]])  # (2 N, K, 3)
    squared = ((both[..., :2] - points) ** 2).sum(axis=2)
    spread = 2 * (2 * sigmas) ** 2 * (np.tile(areas, 2) + np.spacing(1))[:, None]
    similarity = np.where(both[..., 2] > 0, np.exp(-squared / spread), -1.0)
    best, whose = similarity.max(axis=0), similarity.argmax(axis=0)
    own = np.where(best >= GOOD, "good", "jitter")
    near = np.where(whose == 0, own, np.where(whose == people, "inversion", "swap"))
    kinds = np.where(best >= NEAR, near, "miss")
    return np.where(keypoints[0, :, 2] > 0, kinds, ""), best


def _aim(kinds: NDArray[np.str_], best: Array) -> Array:
    """The similarity (K,) that a correction gives.

    A missed keypoint comes near, a jittering one becomes good, and one at another's place comes as
    near to its own as it was to the other's.
    """
    aims = np.where(kinds == "miss", NEAR, np.where(kinds == "jitter", GOOD, best))
    return np.clip(aims, NEAR, 1.0)


def _distance(similarity: Array, area: float, sigmas: Array) -> Array:
    """Pixels at which a keypoint of a person of `area` has this similarity."""
    return np.sqrt(-2 * area * (2 * sigmas) ** 2 * np.log(similarity))


def _gains(
    truth: Json, results: list[Json], found: list[Analysed], sigmas: Array
) -> dict[str, float]:
    poses = [np.array(one["keypoints"], float).reshape(-1, 3) for one in results]
    before = average_precision(truth, results, sigmas)[0]
    gains = {}
    for kind in CORRECTED:
        for one in found:
            poses[one.result][one.kinds == kind, :2] = one.better[one.kinds == kind]
        corrected = [
            {**result, "keypoints": pose.reshape(-1).tolist()}
            for result, pose in zip(results, poses, strict=True)
        ]
        after = average_precision(truth, corrected, sigmas)[0]
        gains[kind], before = after - before, after
    return gains
