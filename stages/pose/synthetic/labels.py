"""COCO annotations of a painted canvas: masks, boxes, keypoints with visibility."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.common.skeleton import COCO_17
from pose.synthetic.canvas import Canvas, Vector
from pose.synthetic.painter import KEYPOINT_PARTS, Painter

OCCLUSION_DISTANCE = 0.05  # of the person's height: a joint hidden farther than this from a visible
OCCLUDED_UNLABELLED_SHARE = 0.6  # pixel of the person is left unlabelled with this probability
MIN_VISIBLE_SHARE = 0.25  # of the silhouette; below it a person has a box only
MIN_KEYPOINTS = 4  # labelled; below it a person has a box only
MIN_PIXELS = 60  # of the visible silhouette; below it a person is not annotated


def silhouette(canvas: Canvas, instance: int) -> NDArray[np.uint8] | None:
    """(H, W) 0/1 mask of the visible pixels of an instance; None if there are too few."""
    mask = (canvas.instances == instance).astype(np.uint8)
    return mask if int(mask.sum()) >= MIN_PIXELS else None


def _bbox_xywh(mask: NDArray[np.uint8]) -> list[int]:
    return [int(v) for v in cv2.boundingRect(mask)]


def annotate_person(
    canvas: Canvas, painter: Painter, unoccluded_area: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    """A COCO annotation without ids; None if fewer than MIN_PIXELS of the person are visible.

    unoccluded_area: pixels of the silhouette before nearer objects were painted.
    """
    mask = silhouette(canvas, painter.instance)
    if mask is None:
        return None
    area, points = int(mask.sum()), painter.keypoints_image()
    visibility = _visibility(canvas, painter, points, mask, rng)
    if (visibility > 0).sum() < MIN_KEYPOINTS or area < MIN_VISIBLE_SHARE * unoccluded_area:
        visibility[:] = 0
    labelled = np.where(visibility[:, None] > 0, points.round(2), 0.0)
    return {
        "segmentation": _polygons(mask),
        "num_keypoints": int((visibility > 0).sum()),
        "area": area,
        "iscrowd": 0,
        "keypoints": [
            value
            for (x, y), v in zip(labelled.tolist(), visibility.tolist(), strict=True)
            for value in (x, y, v)
        ],
        "bbox": _bbox_xywh(mask),
        "category_id": 1,
    }


def _visibility(
    canvas: Canvas,
    painter: Painter,
    points: Vector,
    mask: NDArray[np.uint8],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """(K,) 2 visible, 1 hidden by another part, person or object, 0 outside or unlabelled."""
    height, width = canvas.instances.shape
    visibility = np.full(COCO_17.num_keypoints, 2)
    visibility[painter.keypoints_behind_torso()] = 1
    hidden = painter.hidden_face_keypoints()
    unlabelled = rng.random(COCO_17.num_keypoints) < OCCLUDED_UNLABELLED_SHARE
    for k, (x, y) in enumerate(points.tolist()):
        if hidden[k] or not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            visibility[k] = 0
            continue
        row, col = round(y), round(x)
        if canvas.instances[row, col] != painter.instance:
            if not near(mask, row, col, 1):
                visibility[k] = 1
            if unlabelled[k] and not near(
                mask, row, col, round(OCCLUSION_DISTANCE * painter.pixels)
            ):
                visibility[k] = 0
        elif int(canvas.parts[row, col]) not in KEYPOINT_PARTS[k]:
            visibility[k] = 1
    return visibility


def near(mask: NDArray[np.uint8], row: int, col: int, reach: int) -> bool:
    """Whether the mask has a pixel within `reach` rows and columns."""
    rows = slice(max(row - reach, 0), row + reach + 1)
    return bool(mask[rows, max(col - reach, 0) : col + reach + 1].any())


def _polygons(mask: NDArray[np.uint8]) -> list[list[float]]:
    """COCO polygons of the outer contours, without tiny ones; the box if all are tiny."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    shapes = [cv2.approxPolyDP(c, 0.8, True) for c in sorted(contours, key=cv2.contourArea)[::-1]]
    polygons = [s for s in shapes if len(s) >= 3 and cv2.contourArea(s) >= 8]
    if not polygons:
        x, y, w, h = _bbox_xywh(mask)
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return [[float(v) for v in shape.ravel()] for shape in polygons]


def annotate_crowd(canvas: Canvas, instance: int) -> dict[str, Any] | None:
    """A crowd as uncompressed column-major run lengths, zeros first; None if not visible."""
    mask = silhouette(canvas, instance)
    if mask is None:
        return None
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {
        "segmentation": {"counts": ([0] if flat[0] else []) + runs, "size": list(mask.shape)},
        "num_keypoints": 0,
        "area": int(mask.sum()),
        "iscrowd": 1,
        "keypoints": [0] * (3 * COCO_17.num_keypoints),
        "bbox": _bbox_xywh(mask),
        "category_id": 1,
    }
