"""Similarity of predictions to people, and which result or box belongs to which person.

Two kinds of match: COCOeval's, of results with people by OKS (match_results), and of boxes with
people by IoU (match_boxes), which gives each labelled person the pose predicted in its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from pose.crop_table import CropTable
from pose.evaluation.keypoint_eval import (
    ALL_AREAS,
    People,
    Poses,
    Range,
    match_poses,
    mean_or_missing,
    precision_recall,
    read_people,
    read_poses,
)
from pose.evaluation.predict import Predictions

Array = NDArray[np.float64]
Json = dict[str, Any]
MATCH_IOU = 0.5  # lowest IoU at which a box matches a person


def keypoint_similarity(table: CropTable, predictions: Predictions, sigmas: Array) -> Array:
    """exp(-d^2 / 2 s^2 k^2) (N, K) of each keypoint to its ground truth; NaN where unlabelled.

    d is the distance in image pixels, s^2 the person's area and k = 2 sigma, as in COCO's OKS.
    """
    truth = table.keypoints[predictions.rows].astype(np.float64)
    squared = ((predictions.keypoints - truth[..., :2]) ** 2).sum(axis=2)
    spread = (2 * sigmas) ** 2 * table.area[predictions.rows].astype(np.float64)[:, None] * 2
    similarity = np.exp(-squared / np.maximum(spread, np.spacing(1)))
    return np.where(truth[..., 2] > 0, similarity, np.nan)


def person_oks(similarity: Array) -> Array:
    """COCO's OKS (N,) of each person: keypoint_similarity averaged over its labelled keypoints."""
    oks: Array = np.nanmean(similarity, axis=1)
    return oks


def average_precision(
    people: People, poses: Poses, sigmas: Array, areas: Sequence[Range] = (ALL_AREAS,)
) -> list[float]:
    """COCO's AP in each range of areas; 0 without poses, NaN where no person is annotated."""
    if not len(poses.score):
        return [0.0] * len(areas)
    precision = precision_recall(match_poses(people, poses, sigmas, areas), poses).precision
    means = [mean_or_missing(part) for part in precision]
    return [np.nan if mean == -1 else mean for mean in means]


class Match(NamedTuple):
    """Index of a result, id of the annotation matched to it (None: unmatched), OKS of the pair."""

    result: int
    annotation: int | None
    oks: float


def match_results(
    ground_truth: Json, results: list[Json], sigmas: Array, oks_thr: float
) -> list[Match]:
    """COCOeval's matches at oks_thr, per image in descending order of score.

    Results matched to a crowd or to a person without keypoints are left out.
    """
    if not results:
        return []
    people = read_people(ground_truth, len(sigmas))
    poses = read_poses(ground_truth, results, len(sigmas))
    found = match_poses(people, poses, sigmas, [ALL_AREAS], np.array([oks_thr]))
    columns = (found.pose, found.person[0, 0], found.oks[0, 0], found.pose_ignored[0, 0])
    ids = [annotation["id"] for annotation in ground_truth["annotations"]]
    return [
        Match(result, None if person < 0 else ids[person], oks)
        for result, person, oks, ignored in zip(*(c.tolist() for c in columns), strict=True)
        if not ignored
    ]


def assign_predictions(
    people: CropTable, boxes: CropTable, predictions: Predictions
) -> Predictions:
    """The prediction of each labelled row of people, see match_predictions.

    The rows of the outcome are those of people. A person without a matching box gets keypoints of
    infinity and scores of 0.
    """
    rows, index = people.labelled(), match_predictions(people, boxes, predictions)
    keypoints = np.full((len(rows), *predictions.keypoints.shape[1:]), np.inf)
    scores = np.zeros(keypoints.shape[:2])
    matched = index >= 0
    keypoints[matched] = predictions.keypoints[index[matched]]
    scores[matched] = predictions.scores[index[matched]]
    return Predictions(keypoints, scores, rows.astype(np.int64))


def match_predictions(
    people: CropTable, boxes: CropTable, predictions: Predictions
) -> NDArray[np.intp]:
    """For each labelled row of people the index (N,) of its prediction, or -1.

    predictions were made in rows of boxes. Only boxes of the same image are compared, by
    match_boxes.
    """
    rows = people.labelled()
    box_xywh, box_image_ids = boxes.bbox_xywh[predictions.rows], boxes.image_id[predictions.rows]
    index = np.full(len(rows), -1, dtype=np.intp)
    for image_id in np.unique(people.image_id[rows]):
        in_people = np.flatnonzero(people.image_id[rows] == image_id)
        in_boxes = np.flatnonzero(box_image_ids == image_id)
        matched = match_boxes(people.bbox_xywh[rows[in_people]], box_xywh[in_boxes])
        index[in_people[matched >= 0]] = in_boxes[matched[matched >= 0]]
    return index


def match_boxes(boxes: Array, candidates: Array) -> NDArray[np.intp]:
    """For each of boxes (N, 4: xywh) the index of its match among candidates (M, 4), or -1.

    One to one, greedily by descending IoU, none below MATCH_IOU.
    """
    matches = np.full(len(boxes), -1, dtype=np.intp)
    if not len(boxes) or not len(candidates):
        return matches
    iou = mask.iou(boxes, candidates, np.zeros(len(candidates), np.uint8))  # (N, M)
    for pair in np.argsort(-iou, axis=None, kind="stable"):
        i, j = divmod(int(pair), len(candidates))
        if iou[i, j] < MATCH_IOU:
            break
        if matches[i] < 0 and j not in matches:
            matches[i] = j
    return matches
