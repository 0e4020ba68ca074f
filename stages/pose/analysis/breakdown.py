"""Tables that break the result down: per keypoint, per group of people, per score.

docs/evaluation.md explains each number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools import mask

from pose.analysis.matching import Match, average_precision, keypoint_similarity
from pose.crop_table import CropTable
from pose.evaluation.keypoint_eval import (
    ALL_AREAS,
    RECALLS,
    match_poses,
    precision_recall,
    read_people,
    read_poses,
)
from pose.evaluation.predict import Predictions

Array = NDArray[np.float64]
Json = dict[str, Any]
FOUND_SIMILARITY = 0.5  # a keypoint with a higher similarity counts as found
OKS_THRS = np.arange(21) / 20
PR_THRS = (0.5, 0.75, 0.9)
SIZE_RANGES = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}  # COCO's

# Upper ends: share of labelled keypoints that are hidden; number of overlapping boxes.
OCCLUSION_BINS = {"none hidden": 0.0, "up to 1/4 hidden": 0.25, "more hidden": 1.0}
CROWDING_BINS = {"alone": 0, "one other": 1, "more others": 10**6}
OVERLAP_IOU = 0.1  # lowest IoU at which boxes overlap; Ronchi and Perona 2017
SCORE_BINS = 10


def keypoint_table(
    names: Sequence[str],
    truth: Json,
    results: list[Json],
    table: CropTable,
    predictions: Predictions,
    sigmas: Array,
    pck_thr: float,
) -> pd.DataFrame:
    """One row per keypoint: times labelled, share found, AP of this keypoint, PCK, mean similarity.

    predictions are those of all labelled persons, results the COCO results that AP is computed of.
    """
    similarity = keypoint_similarity(table, predictions, sigmas)
    labelled = (~np.isnan(similarity)).sum(axis=0)
    count = np.maximum(labelled, 1)
    return pd.DataFrame(
        {
            "keypoint": names,
            "labelled": labelled,
            "found": np.nansum(similarity > FOUND_SIMILARITY, axis=0) / count,
            "AP": keypoint_ap(truth, results, sigmas),
            "PCK": correct_keypoints(table, predictions, pck_thr).sum(axis=0) / count,
            "oks": np.nansum(similarity, axis=0) / count,
        }
    )


def correct_keypoints(
    table: CropTable, predictions: Predictions, threshold: float
) -> NDArray[np.bool_]:
    """(N, K): labelled, and at most threshold x the longer side of the box from the truth."""
    truth = table.keypoints[predictions.rows].astype(np.float64)
    distance = np.linalg.norm(predictions.keypoints - truth[..., :2], axis=2)
    limit = threshold * table.bbox_xywh[predictions.rows][:, 2:].max(axis=1)
    within: NDArray[np.bool_] = (distance <= limit[:, None]) & (truth[..., 2] > 0)
    return within


def keypoint_ap(truth: Json, results: list[Json], sigmas: Array) -> list[float]:
    """COCO's AP per keypoint, as if it were the only one; NaN where it is never labelled."""
    people, poses = read_people(truth, len(sigmas)), read_poses(truth, results, len(sigmas))
    return [
        average_precision(people.keypoint(k), poses.keypoint(k), sigmas[[k]])[0]
        for k in range(len(sigmas))
    ]


def group_table(
    truth: Json,
    results: list[Json],
    matches: list[Match],
    sigmas: Array,
    oks_by_id: dict[int, float],
) -> pd.DataFrame:
    """Persons, AP and mean OKS by size, occlusion and crowding; oks_by_id is per annotation id.

    AP by size is COCO's: medium and large equal APm and APl, and COCOeval ignores a person whose
    area is above the last range. AP of the other groups counts the persons of a bin and the results
    matched to them, no other results: the poses matched to other persons or to none would outnumber
    those of a small bin.
    """
    people, poses = read_people(truth, len(sigmas)), read_poses(truth, results, len(sigmas))
    persons = labelled_persons(truth)
    size_ends = {label: end for label, (_, end) in SIZE_RANGES.items()}
    counted = [person for person in persons if person["area"] <= max(size_ends.values())]
    sizes = {person["id"]: _bin_label(size_ends, person["area"]) for person in counted}
    size_aps = average_precision(people, poses, sigmas, [*SIZE_RANGES.values()])
    rows = _group_rows("size", sizes, dict(zip(SIZE_RANGES, size_aps, strict=True)), oks_by_id)
    for group, bins, labels in (
        ("occlusion", OCCLUSION_BINS, occlusion(persons)),
        ("crowding", CROWDING_BINS, crowding(persons)),
    ):
        aps = {}
        for label in bins:
            ids = {id_ for id_, person_label in labels.items() if person_label == label}
            members = np.array([a["id"] in ids for a in truth["annotations"]], dtype=bool)
            matched = [match.result for match in matches if match.annotation in ids]
            subset = people[members], poses[np.array(matched, dtype=np.intp)]
            aps[label] = average_precision(*subset, sigmas)[0]
        rows += _group_rows(group, labels, aps, oks_by_id)
    return pd.DataFrame(rows)


def labelled_persons(truth: Json) -> list[Json]:
    """The annotations that COCOeval counts: with keypoints, and no crowd."""
    return [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]


def occlusion(persons: list[Json]) -> dict[int, str]:
    """Bin per annotation id, by the share of labelled keypoints that are hidden (visibility 1)."""
    labels = {}
    for person in persons:
        visibility = np.array(person["keypoints"][2::3])
        share = (visibility == 1).sum() / max((visibility > 0).sum(), 1)
        labels[person["id"]] = _bin_label(OCCLUSION_BINS, share)
    return labels


def crowding(persons: list[Json]) -> dict[int, str]:
    """Bin per annotation id, by the number of other persons' boxes with an IoU >= OVERLAP_IOU."""
    labels: dict[int, str] = {}
    for image_id in {person["image_id"]: None for person in persons}:
        in_image = [person for person in persons if person["image_id"] == image_id]
        boxes = np.array([person["bbox"] for person in in_image], dtype=np.float64)
        overlaps = mask.iou(boxes, boxes, np.zeros(len(boxes), np.uint8)) >= OVERLAP_IOU
        counts = overlaps.sum(axis=1) - 1  # without the person's own box
        for person, count in zip(in_image, counts, strict=True):
            labels[person["id"]] = _bin_label(CROWDING_BINS, count)
    return labels


def _bin_label(upper_ends: Mapping[str, float], value: float) -> str:
    """The first bin whose upper end is not below value."""
    return next(label for label, end in upper_ends.items() if value <= end)


def _group_rows(
    group: str, labels: dict[int, str], aps: dict[str, float], oks_by_id: dict[int, float]
) -> list[Json]:
    """One row per bin of aps; labels is the bin per annotation id."""
    counts = Counter(labels.values())
    means = {
        bin_: np.mean([oks_by_id.get(id_, 0.0) for id_, label in labels.items() if label == bin_])
        for bin_ in counts
    }
    return [
        {
            "group": group,
            "bin": bin_,
            "persons": counts[bin_],
            "AP": ap if counts[bin_] else np.nan,
            "oks": means.get(bin_, np.nan),
        }
        for bin_, ap in aps.items()
    ]


def pr_table(truth: Json, results: list[Json], sigmas: Array) -> pd.DataFrame:
    """COCOeval's precision at its 101 recalls, for the OKS thresholds PR_THRS."""
    if not results:
        return pd.DataFrame(columns=["oks_thr", "recall", "precision"])
    people, poses = read_people(truth, len(sigmas)), read_poses(truth, results, len(sigmas))
    found = match_poses(people, poses, sigmas, [ALL_AREAS], np.array(PR_THRS))
    return pd.DataFrame(
        {
            "oks_thr": np.repeat(PR_THRS, len(RECALLS)),
            "recall": np.tile(RECALLS, len(PR_THRS)),
            "precision": precision_recall(found, poses).precision.reshape(-1),
        }
    )


def oks_table(oks: Array) -> pd.DataFrame:
    """Share of persons whose OKS (N,) is at or above the threshold, for each of OKS_THRS."""
    share = [(oks >= threshold).mean() if len(oks) else 0.0 for threshold in OKS_THRS]
    return pd.DataFrame({"oks_thr": OKS_THRS, "share": share})


def calibration_table(results: list[Json], matches: list[Match]) -> pd.DataFrame:
    """Mean score and mean OKS of all results, matched or not, per bin of the score."""
    scores = np.array([results[match.result]["score"] for match in matches])
    return score_bins(scores, np.array([match.oks for match in matches]), "oks")


def score_bins(scores: Array, outcomes: NDArray[Any], outcome: str) -> pd.DataFrame:
    """Count, mean score and mean outcome (a column of that name) per bin of the score.

    Bins are tenths of 0..1. Scores outside fall into the first or last bin; empty bins are omitted.
    """
    bins = np.clip((scores * SCORE_BINS).astype(int), 0, SCORE_BINS - 1)
    return pd.DataFrame(
        [
            {
                "bin": f"{b / SCORE_BINS:.1f}-{(b + 1) / SCORE_BINS:.1f}",
                "count": int((bins == b).sum()),
                "score": scores[bins == b].mean(),
                outcome: outcomes[bins == b].mean(),
            }
            for b in np.unique(bins)
        ],
        columns=["bin", "count", "score", outcome],
    )


def calibration_error(table: pd.DataFrame, outcome: str = "oks") -> float:
    """Expected calibration error: |mean score - mean outcome|, weighted by count; 0 for no rows.

    Source: Guo et al., ICML 2017; the outcome is OKS, or the share of right keypoints.
    """
    gap = (table["score"] - table[outcome]).abs() * table["count"]
    return float(gap.sum() / max(table["count"].sum(), 1))
