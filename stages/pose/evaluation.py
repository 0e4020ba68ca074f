"""From predictions to COCO's numbers: rescoring, OKS-NMS, COCOeval, and per-keypoint similarity.

Source of rescoring and NMS: mmpose/evaluation/metrics/coco_metric.py ('bbox_keypoint', 'oks_nms').
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pose.cache import CropTable
from pose.inference import Predictions
from pose.skeleton import OKS_SIGMAS

Array = NDArray[np.float64]

STATS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def oks(keypoints: Array, others: Array, area: float, other_areas: Array) -> Array:
    """Object keypoint similarity (N,) of one pose (K, 2) to others (N, K, 2), over all keypoints.

    Areas in square pixels, averaged pairwise, as OKS-NMS does (no visibility involved).
    """
    squared = ((others - keypoints) ** 2).sum(axis=2)
    spread = (2 * OKS_SIGMAS) ** 2 * ((area + other_areas) / 2 + np.spacing(1))[:, None] * 2
    return np.exp(-squared / spread).mean(axis=1)


def oks_nms(keypoints: Array, scores: Array, areas: Array, threshold: float) -> NDArray[np.intp]:
    """Indices of the poses kept, best first: each drops all later ones with oks > threshold."""
    order = scores.argsort()[::-1]
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        similar = oks(keypoints[best], keypoints[order], areas[best], areas[order])
        order = order[similar <= threshold]
    return np.array(kept, dtype=np.intp)


def rescore(keypoint_scores: Array, bbox_scores: Array, threshold: float) -> Array:
    """bbox score times the mean of the keypoint scores above threshold (0 if none); (N,)."""
    above = keypoint_scores > threshold
    total = np.where(above, keypoint_scores, 0.0).sum(axis=1)
    return bbox_scores * total / np.maximum(above.sum(axis=1), 1)


def to_results(
    table: CropTable, found: Predictions, areas: Array, score_thr: float, nms_thr: float
) -> list[dict[str, Any]]:
    """COCO results, rescored and thinned image by image; box scores are 1 (ground-truth boxes)."""
    scores = rescore(found.scores, np.ones(len(found.rows)), score_thr)
    image_ids = table.image_id[found.rows]
    results = []
    for image_id in np.unique(image_ids):
        members = np.flatnonzero(image_ids == image_id)
        kept = oks_nms(found.keypoints[members], scores[members], areas[members], nms_thr)
        results += [_result(int(image_id), found, i, scores[i]) for i in members[kept]]
    return results


def _result(image_id: int, found: Predictions, i: int, score: float) -> dict[str, Any]:
    keypoints = np.concatenate([found.keypoints[i], found.scores[i][:, None]], axis=1)
    return {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": [round(float(value), 4) for value in keypoints.reshape(-1)],
        "score": round(float(score), 6),
    }


def coco_eval(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    """COCOeval's ten keypoint numbers by name; all zero without results."""
    if not results:
        return dict.fromkeys(STATS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(STATS, evaluation.stats, strict=True)}


def keypoint_similarity(table: CropTable, found: Predictions) -> Array:
    """exp(-d^2 / 2 s^2 k^2) (N, K) of each keypoint to its own truth; NaN where unlabelled."""
    truth = table.keypoints[found.rows].astype(np.float64)
    squared = ((found.keypoints - truth[..., :2]) ** 2).sum(axis=2)
    spread = (2 * OKS_SIGMAS) ** 2 * table.area[found.rows].astype(np.float64)[:, None] * 2
    similarity = np.exp(-squared / np.maximum(spread, np.spacing(1)))
    return np.where(truth[..., 2] > 0, similarity, np.nan)


def person_oks(similarity: Array) -> Array:
    """COCO's OKS (N,) of each person: keypoint_similarity averaged over its labelled keypoints."""
    return np.nanmean(similarity, axis=1)
