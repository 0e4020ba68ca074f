"""COCO's metrics of predictions: rescoring, OKS-NMS, COCO results and their ten numbers.

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

from pose.common.errors import PoseError
from pose.common.files import finite_numbers
from pose.crop_table import CropTable
from pose.evaluation.keypoint_eval import (
    People,
    Poses,
    match_poses,
    mean_or_missing,
    precision_recall,
    read_people,
    read_poses,
)
from pose.evaluation.predict import Predictions

Array = NDArray[np.float64]
STATS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def oks(keypoints: Array, others: Array, area: float, other_areas: Array, sigmas: Array) -> Array:
    """Object keypoint similarity (N,) of one pose (K, 2) to other poses (N, K, 2).

    sigmas (K,) come from skeleton.oks_sigmas. Areas are in square pixels. As in OKS-NMS, the two
    areas of a pair are averaged and visibility is ignored.

    >>> pose, shifted = np.zeros((1, 2)), np.full((1, 1, 2), 3.0)  # K = 1, 3 pixels off in x and y
    >>> oks(pose, shifted, 900.0, np.array([900.0]), np.array([0.05])).round(3)
    array([0.368])
    """
    squared = ((others - keypoints) ** 2).sum(axis=2)
    spread = (2 * sigmas) ** 2 * ((area + other_areas) / 2 + np.spacing(1))[:, None] * 2
    similarity: Array = np.exp(-squared / spread).mean(axis=1)
    return similarity


def oks_nms(
    keypoints: Array, scores: Array, areas: Array, threshold: float, sigmas: Array
) -> NDArray[np.intp]:
    """Indices of the poses to keep, best first: each removes all worse poses with oks > threshold.

    Of two poses with equal scores the later one counts as better.
    """
    order = scores.argsort(kind="stable")[::-1]
    keep = []
    while len(order):
        best, order = order[0], order[1:]
        keep.append(best)
        similar = oks(keypoints[best], keypoints[order], areas[best], areas[order], sigmas)
        order = order[similar <= threshold]
    return np.array(keep, dtype=np.intp)


def keypoint_areas(keypoints: Array) -> Array:
    """Areas (N,) of the extents of poses (N, K, 2), in square pixels.

    Source: Sapiens2's OKS-NMS, which takes them instead of the areas of the padded boxes.

    >>> keypoint_areas(np.array([[[1.0, 2.0], [4.0, 2.0], [2.0, 7.0]]]))
    array([15.])
    """
    areas: Array = np.ptp(keypoints, axis=1).prod(axis=1)
    return areas


def rescore(keypoint_scores: Array, bbox_scores: Array, threshold: float) -> Array:
    """Pose scores (N,): bbox score times the mean keypoint score above threshold (0 if none).

    >>> rescore(np.array([[0.9, 0.7, 0.1], [0.1, 0.0, 0.2]]), np.array([0.5, 1.0]), 0.2)
    array([0.4, 0. ])
    """
    above = keypoint_scores > threshold
    total = np.where(above, keypoint_scores, 0.0).sum(axis=1)
    scores: Array = bbox_scores * total / np.maximum(above.sum(axis=1), 1)
    return scores


def to_results(
    table: CropTable,
    predictions: Predictions,
    areas: Array,
    score_thr: float,
    nms_thr: float,
    sigmas: Array,
    category_id: int,
) -> list[dict[str, Any]]:
    """COCO results after rescoring, and OKS-NMS per image.

    areas (N,), in square pixels, are geometry.padded_areas or keypoint_areas, by
    evaluate.nms_area. If a row of the table was predicted more than once, its first prediction is
    used.
    """
    bbox_scores = table.bbox_score[predictions.rows].astype(np.float64)
    scores = rescore(predictions.scores, bbox_scores, score_thr)
    rows, first = np.unique(predictions.rows, return_index=True)
    image_ids = table.image_id[rows]
    results = []
    for image_id in np.unique(image_ids):
        members = first[image_ids == image_id]
        keypoints = predictions.keypoints[members]
        keep = oks_nms(keypoints, scores[members], areas[members], nms_thr, sigmas)
        ids = {"image_id": int(image_id), "category_id": category_id}
        results += [{**ids, **_pose(predictions, i, scores[i])} for i in members[keep]]
    return results


def _pose(predictions: Predictions, i: int, score: float) -> dict[str, Any]:
    keypoints = np.concatenate([predictions.keypoints[i], predictions.scores[i][:, None]], axis=1)
    return {
        "keypoints": [round(float(value), 4) for value in keypoints.reshape(-1)],
        "score": float(score),  # not rounded: rounding could make ranked detections equal
    }


def coco_eval(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], sigmas: Array
) -> dict[str, float]:
    """COCOeval's ten keypoint metrics by name, from keypoint_eval; all 0 if there are no results.

    -1, as in pycocotools, means that no person of that area range is annotated. Raises PoseError
    for results that do not belong to this ground truth.
    """
    if not results:
        return dict.fromkeys(STATS, 0.0)
    require_results(results, ground_truth, len(sigmas))
    people = read_people(ground_truth, len(sigmas))
    poses = read_poses(ground_truth, results, len(sigmas))
    return coco_stats(people, poses, sigmas)


def coco_stats(people: People, poses: Poses, sigmas: Array) -> dict[str, float]:
    """COCOeval's ten keypoint metrics by name, see coco_eval."""
    parts = precision_recall(match_poses(people, poses, sigmas), poses)
    values = [
        mean_or_missing(part)
        for curve in parts
        for part in (curve[0], curve[0, 0], curve[0, 5], curve[1], curve[2])  # thresholds .5, .75
    ]
    return dict(zip(STATS, values, strict=True))


def pycocotools_eval(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], sigmas: Array
) -> dict[str, float]:
    """coco_eval by pycocotools itself, which takes ten times as long."""
    if not results:
        return dict.fromkeys(STATS, 0.0)
    require_results(results, ground_truth, len(sigmas))
    run = pycocotools_run(ground_truth, results, sigmas)
    with contextlib.redirect_stdout(io.StringIO()):
        run.summarize()
    return {name: float(value) for name, value in zip(STATS, run.stats, strict=True)}


def pycocotools_run(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], sigmas: Array
) -> COCOeval:
    """COCOeval after accumulate(). Needs at least one result; `results` is not changed.

    Annotations are numbered from 1 in their order, because pycocotools reads an annotation id of 0
    as "no match".
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        numbered = enumerate(ground_truth["annotations"], start=1)
        annotations = [{**person, "id": number} for number, person in numbered]
        truth.dataset = {**ground_truth, "annotations": annotations}
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes([dict(result) for result in results]), "keypoints")
        run.params.kpt_oks_sigmas = sigmas
        run.evaluate()
        run.accumulate()
    return run


def require_results(
    results: list[dict[str, Any]], ground_truth: dict[str, Any], num_keypoints: int
) -> None:
    """Raises PoseError for the first result that COCOeval cannot read or would ignore."""
    image_ids = {image["id"] for image in ground_truth["images"]}
    category_id = ground_truth["categories"][0]["id"]
    for place, result in enumerate(results):
        if error := _result_error(result, image_ids, category_id, num_keypoints):
            raise PoseError(f"results: record {place} {error}; are they of this ground truth?")


def _result_error(
    result: dict[str, Any], image_ids: set[int], category_id: int, num_keypoints: int
) -> str | None:
    """What is wrong with a result, as the end of a sentence that names it; None if it is valid."""
    keypoints = result.get("keypoints")
    if not isinstance(keypoints, list) or len(keypoints) != 3 * num_keypoints:
        count = len(keypoints) if isinstance(keypoints, list) else 0
        expected = f"expected {3 * num_keypoints} ({num_keypoints} x 3)"
        return f"has {count} numbers in 'keypoints', {expected}"
    if not finite_numbers([*keypoints, result.get("score")], len(keypoints) + 1):
        return "has a keypoint or score that is not a finite number"
    if result.get("image_id") not in image_ids:
        return f"names image {result.get('image_id')}, which is not in 'images'"
    if result.get("category_id") != category_id:
        return f"has category_id {result.get('category_id')}, expected {category_id}"
    return None
