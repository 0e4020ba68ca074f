"""Where a result is good and where not: keypoint by keypoint, by kind of person, by score.

Tables of what COCOeval says of results, see docs/evaluation.md for what each number means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools import mask

from pose.analysis.matching import Match, average_precision, keypoint_similarity
from pose.crop_table import CropTable
from pose.evaluation.coco_metrics import ALL_AREAS, coco_run
from pose.evaluation.predict import Predictions

Array = NDArray[np.float64]
Json = dict[str, Any]
FOUND = 0.5  # similarity above which a keypoint counts as found
OKS_THRS = np.arange(21) / 20
PR_THRS = (0.5, 0.75, 0.9)
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # COCO's

# Upper ends: the share of keypoints that are hidden, and how many others' boxes overlap.
OCCLUDED = {"none hidden": 0.0, "up to 1/4 hidden": 0.25, "more hidden": 1.0}
CROWDED = {"alone": 0, "one other": 1, "more others": 10**6}
OVERLAP = 0.1  # IoU of boxes; Ronchi and Perona 2017
SCORE_BINS = 10


def keypoint_table(
    names: Sequence[str],
    truth: Json,
    results: list[Json],
    table: CropTable,
    shown: Predictions,
    sigmas: Array,
    pck_thr: float,
) -> pd.DataFrame:
    """A row a keypoint: how often labelled, found, AP of it alone, PCK, mean similarity.

    shown are the predictions of all labelled persons; results those of COCOeval.
    """
    similarity = keypoint_similarity(table, shown, sigmas)
    labelled = (~np.isnan(similarity)).sum(axis=0)
    count = np.maximum(labelled, 1)
    return pd.DataFrame(
        {
            "keypoint": names,
            "labelled": labelled,
            "found": np.nansum(similarity > FOUND, axis=0) / count,
            "AP": keypoint_ap(truth, results, sigmas),
            "PCK": correct_keypoints(table, shown, pck_thr).sum(axis=0) / count,
            "oks": np.nansum(similarity, axis=0) / count,
        }
    )


def correct_keypoints(table: CropTable, found: Predictions, threshold: float) -> NDArray[np.bool_]:
    """(N, K) whether a labelled keypoint is at most threshold x the box's longer side away."""
    truth = table.keypoints[found.rows].astype(np.float64)
    distance = np.linalg.norm(found.keypoints - truth[..., :2], axis=2)
    limit = threshold * table.bbox_xywh[found.rows][:, 2:].max(axis=1)
    within: NDArray[np.bool_] = (distance <= limit[:, None]) & (truth[..., 2] > 0)
    return within


def keypoint_ap(truth: Json, results: list[Json], sigmas: Array) -> list[float]:
    """AP of COCOeval for each keypoint as if it were the only one; NaN where none is labelled."""
    return [
        average_precision(
            {**truth, "annotations": [_alone(one, k) for one in truth["annotations"]]},
            [{**one, "keypoints": one["keypoints"][3 * k : 3 * k + 3]} for one in results],
            sigmas[[k]],
        )[0]
        for k in range(len(sigmas))
    ]


def _alone(annotation: Json, k: int) -> Json:
    triple = annotation["keypoints"][3 * k : 3 * k + 3]
    return {**annotation, "keypoints": triple, "num_keypoints": int(triple[2] > 0)}


def group_table(
    truth: Json, results: list[Json], matches: list[Match], sigmas: Array, oks: dict[int, float]
) -> pd.DataFrame:
    """Persons, AP and mean OKS by size, occlusion and crowding; oks is by annotation id.

    AP of a size is COCO's, so that medium and large equal APm and APl. In the other groups it is of
    the bin's persons and the results matched to them alone: poses that belong to persons elsewhere,
    or to nobody, would drown a small bin.
    """
    persons = labelled_persons(truth)
    sizes = {one["id"]: _bin(SIZES, one["area"], upper=1) for one in persons}
    aps = dict(
        zip(SIZES, average_precision(truth, results, sigmas, [*SIZES.values()]), strict=True)
    )
    rows = _group_rows("size", sizes, aps, oks)
    for group, bins in (("occlusion", occlusion(persons)), ("crowding", crowding(persons))):
        labels = OCCLUDED if group == "occlusion" else CROWDED
        aps = {
            label: average_precision(*_only(truth, results, matches, bins, label), sigmas)[0]
            for label in labels
        }
        rows += _group_rows(group, bins, aps, oks)
    return pd.DataFrame(rows)


def labelled_persons(truth: Json) -> list[Json]:
    """The annotations that COCOeval counts."""
    return [one for one in truth["annotations"] if one["num_keypoints"] and not one["iscrowd"]]


def occlusion(persons: list[Json]) -> dict[int, str]:
    """Each person's bin by the share of its labelled keypoints that are hidden (visibility 1)."""
    found = {}
    for one in persons:
        visibility = np.array(one["keypoints"][2::3])
        share = (visibility == 1).sum() / max((visibility > 0).sum(), 1)
        found[one["id"]] = _bin(OCCLUDED, share)
    return found


def crowding(persons: list[Json]) -> dict[int, str]:
    """Each person's bin by how many others' boxes overlap its own by an IoU of OVERLAP or more."""
    found: dict[int, str] = {}
    for image_id in {one["image_id"]: None for one in persons}:
        group = [one for one in persons if one["image_id"] == image_id]
        boxes = np.array([one["bbox"] for one in group], dtype=np.float64)
        overlaps = mask.iou(boxes, boxes, np.zeros(len(boxes), np.uint8)) >= OVERLAP
        others = overlaps.sum(axis=1) - 1
        found |= {one["id"]: _bin(CROWDED, n) for one, n in zip(group, others, strict=True)}
    return found


def _bin(bins: dict[str, Any], value: float, upper: int | None = None) -> str:
    """The first bin whose upper end is not below value."""
    ends = {label: end if upper is None else end[upper] for label, end in bins.items()}
    return next(label for label, end in ends.items() if value <= end)


def _only(
    truth: Json, results: list[Json], matches: list[Match], bins: dict[int, str], label: str
) -> tuple[Json, list[Json]]:
    """A bin's persons, and what is matched to them."""
    members = {id_ for id_, own in bins.items() if own == label}
    annotations = [one for one in truth["annotations"] if one["id"] in members]
    mine = [results[match.result] for match in matches if match.annotation in members]
    return {**truth, "annotations": annotations}, mine


def _group_rows(
    group: str, bins: dict[int, str], aps: dict[str, float], oks: dict[int, float]
) -> list[Json]:
    counts = Counter(bins.values())
    means = {
        label: np.mean([oks.get(id_, 0.0) for id_, own in bins.items() if own == label])
        for label in counts
    }
    return [
        {
            "group": group,
            "bin": label,
            "persons": counts[label],
            "AP": ap if counts[label] else np.nan,
            "oks": means.get(label, np.nan),
        }
        for label, ap in aps.items()
    ]


def pr_table(truth: Json, results: list[Json], sigmas: Array) -> pd.DataFrame:
    """COCOeval's precision at its 101 recalls, for the OKS thresholds PR_THRS."""
    if not results:
        return pd.DataFrame(columns=["oks_thr", "recall", "precision"])
    run = coco_run(truth, results, sigmas, [ALL_AREAS], PR_THRS)
    recall = run.params.recThrs
    return pd.DataFrame(
        {
            "oks_thr": np.repeat(PR_THRS, len(recall)),
            "recall": np.tile(recall, len(PR_THRS)),
            "precision": run.eval["precision"][:, :, 0, 0, 0].reshape(-1),
        }
    )


def oks_table(oks: Array) -> pd.DataFrame:
    """The share of persons whose OKS (N,) is at or above each of OKS_THRS."""
    share = [(oks >= threshold).mean() if len(oks) else 0.0 for threshold in OKS_THRS]
    return pd.DataFrame({"oks_thr": OKS_THRS, "share": share})


def calibration_table(results: list[Json], matches: list[Match]) -> pd.DataFrame:
    """Mean score and mean OKS of the matched and unmatched results, in bins of the score.

    Bins are tenths of 0..1, scores beyond fall into the outer ones; empty bins are left out.
    """
    scores = np.array([results[match.result]["score"] for match in matches])
    oks = np.array([match.oks for match in matches])
    bins = np.clip((scores * SCORE_BINS).astype(int), 0, SCORE_BINS - 1)
    return pd.DataFrame(
        [
            {
                "bin": f"{b / SCORE_BINS:.1f}-{(b + 1) / SCORE_BINS:.1f}",
                "count": int((bins == b).sum()),
                "score": scores[bins == b].mean(),
                "oks": oks[bins == b].mean(),
            }
            for b in np.unique(bins)
        ],
        columns=["bin", "count", "score", "oks"],
    )


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error: |mean score - mean OKS|, weighted by count; 0 for no results.

    Source: Guo et al., ICML 2017, with OKS in the place of accuracy.
    """
    gap = (table["score"] - table["oks"]).abs() * table["count"]
    return float(gap.sum() / max(table["count"].sum(), 1))
