"""Which result COCOeval matched with which person, and the OKS of each pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from pose.crop_table import CropTable
from pose.evaluation.coco_metrics import ALL_AREAS, coco_run
from pose.evaluation.predict import Predictions

Array = NDArray[np.float64]
MATCH_IOU = 0.5  # a box shows a person from here on


def average_precision(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    sigmas: Array,
    areas: Sequence[tuple[float, float]] = (ALL_AREAS,),
) -> list[float]:
    """COCO's AP in each range of areas; 0 without results, NaN where no person is annotated."""
    if not results:
        return [0.0] * len(areas)
    precision = coco_run(ground_truth, results, sigmas, areas).eval["precision"]  # (T, R, 1, A, 1)
    found = [precision[:, :, 0, a, 0] for a in range(len(areas))]
    return [float(one[one > -1].mean()) if (one > -1).any() else np.nan for one in found]


class Match(NamedTuple):
    """A result's place, the id of the annotation it is taken for (None: unmatched), their OKS."""

    result: int
    annotation: int | None
    oks: float


def match_results(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], sigmas: Array, oks_thr: float
) -> list[Match]:
    """COCOeval's own matches at oks_thr, image by image, the best score first.

    Results taken for a crowd or for a person without keypoints are left out.
    """
    if not results:
        return []
    run = coco_run(ground_truth, results, sigmas, [ALL_AREAS], [oks_thr])
    ids = [annotation["id"] for annotation in ground_truth["annotations"]]
    found = []
    for one in filter(None, run.evalImgs):
        place = (one["image_id"], one["category_id"])
        columns = {truth["id"]: column for column, truth in enumerate(run._gts[place])}
        for row, (id_, annotation) in enumerate(
            zip(one["dtIds"], one["dtMatches"][0], strict=True)
        ):
            if one["dtIgnore"][0][row]:
                continue
            known = int(annotation)  # pycocotools' ids of results count from 1 as well
            oks = float(run.ious[place][row, columns[known]]) if known else 0.0
            found.append(Match(id_ - 1, ids[known - 1] if known else None, oks))
    return found


def partners(truth: CropTable, table: CropTable, found: Predictions) -> NDArray[np.intp]:
    """For each of truth's labelled rows its prediction's place in found, by boxes alone, or -1.

    One to one, the highest IoU first, none below MATCH_IOU.
    """
    rows = truth.labelled()
    boxes, image_ids = table.bbox_xywh[found.rows], table.image_id[found.rows]
    index = np.full(len(rows), -1, dtype=np.intp)
    for image_id in np.unique(truth.image_id[rows]):
        mine = np.flatnonzero(truth.image_id[rows] == image_id)
        theirs = np.flatnonzero(image_ids == image_id)
        matched = match_boxes(truth.bbox_xywh[rows[mine]], boxes[theirs])
        index[mine[matched >= 0]] = theirs[matched[matched >= 0]]
    return index


def assign(truth: CropTable, table: CropTable, found: Predictions) -> Predictions:
    """The predictions in `table`'s boxes handed to truth's labelled rows, see partners.

    A row without gets keypoints of infinity and scores of 0.
    """
    rows, index = truth.labelled(), partners(truth, table, found)
    keypoints = np.full((len(rows), *found.keypoints.shape[1:]), np.inf)
    scores = np.zeros(keypoints.shape[:2])
    shown = index >= 0
    keypoints[shown], scores[shown] = found.keypoints[index[shown]], found.scores[index[shown]]
    return Predictions(keypoints, scores, rows.astype(np.int64))


def match_boxes(boxes: Array, others: Array) -> NDArray[np.intp]:
    """For each of boxes (N, 4: xywh) the index of its partner among others (M, 4), or -1."""
    partners = np.full(len(boxes), -1, dtype=np.intp)
    if not len(boxes) or not len(others):
        return partners
    iou = mask.iou(boxes, others, np.zeros(len(others), np.uint8))  # (N, M)
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(others))
        if iou[i, j] < MATCH_IOU:
            break
        if partners[i] < 0 and j not in partners:
            partners[i] = j
    return partners


def keypoint_similarity(table: CropTable, found: Predictions, sigmas: Array) -> Array:
    """exp(-d^2 / 2 s^2 k^2) (N, K) of each keypoint to its own truth; NaN where unlabelled."""
    truth = table.keypoints[found.rows].astype(np.float64)
    squared = ((found.keypoints - truth[..., :2]) ** 2).sum(axis=2)
    spread = (2 * sigmas) ** 2 * table.area[found.rows].astype(np.float64)[:, None] * 2
    similarity = np.exp(-squared / np.maximum(spread, np.spacing(1)))
    return np.where(truth[..., 2] > 0, similarity, np.nan)


def person_oks(similarity: Array) -> Array:
    """COCO's OKS (N,) of each person: keypoint_similarity averaged over its labelled keypoints."""
    oks: Array = np.nanmean(similarity, axis=1)
    return oks
