"""COCO annotations of what can be seen on a painted canvas: masks, boxes, keypoint visibility."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.common.skeleton import COCO_17
from pose.synthetic.canvas import Canvas, Vector
from pose.synthetic.painter import CARRIERS, Painter

DEEP_HIDDEN = 0.05  # hidden farther than this (of the person's height) from what is visible ...
DEEP_UNLABELLED_SHARE = 0.6  # ... a joint stays unlabelled with this share
MIN_VISIBLE_SHARE = 0.25  # of the silhouette; below it a person carries a box only
MIN_KEYPOINTS = 4  # labelled; below it a person carries a box only
MIN_PIXELS = 60  # visible silhouette; below it a person is not annotated


def _silhouette(canvas: Canvas, owner: int) -> NDArray[np.uint8] | None:
    """(H, W) 0/1 mask of an owner's visible pixels, None when there are too few."""
    mask = (canvas.owner == owner).astype(np.uint8)
    return mask if int(mask.sum()) >= MIN_PIXELS else None


def _bbox_xywh(mask: NDArray[np.uint8]) -> list[int]:
    return [int(v) for v in cv2.boundingRect(mask)]


def annotate_person(
    canvas: Canvas, painter: Painter, pixels: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    """COCO's fields of one person without ids, None when hardly anything of it is to be seen.

    pixels: of the person's silhouette before nearer things were painted.
    """
    mask = _silhouette(canvas, painter.owner)
    if mask is None:
        return None
    area, points = int(mask.sum()), painter.keypoints_image()
    visibility = _visibility(canvas, painter, points, mask, rng)
    if (visibility > 0).sum() < MIN_KEYPOINTS or area < MIN_VISIBLE_SHARE * pixels:
        visibility[:] = 0
    shown = np.where(visibility[:, None] > 0, points.round(2), 0.0)
    return {
        "segmentation": _polygons(mask),
        "num_keypoints": int((visibility > 0).sum()),
        "area": area,
        "iscrowd": 0,
        "keypoints": [
            value
            for (x, y), seen in zip(shown.tolist(), visibility.tolist(), strict=True)
            for value in (x, y, seen)
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
    height, width = canvas.owner.shape
    visibility = np.full(COCO_17.num_keypoints, 2)
    visibility[painter.far_side()] = 1
    away = painter.turned_away()
    unlabelled = rng.random(COCO_17.num_keypoints) < DEEP_UNLABELLED_SHARE
    for k, (x, y) in enumerate(points.tolist()):
        if away[k] or not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            visibility[k] = 0
            continue
        row, col = round(y), round(x)
        if canvas.owner[row, col] != painter.owner:
            if not _near(mask, row, col, 1):
                visibility[k] = 1
            if unlabelled[k] and not _near(mask, row, col, round(DEEP_HIDDEN * painter.pixels)):
                visibility[k] = 0
        elif int(canvas.part[row, col]) not in CARRIERS[k]:
            visibility[k] = 1
    return visibility


def _near(mask: NDArray[np.uint8], row: int, col: int, reach: int) -> bool:
    """Whether the mask has a pixel within `reach` rows and columns."""
    rows = slice(max(row - reach, 0), row + reach + 1)
    return bool(mask[rows, max(col - reach, 0) : col + reach + 1].any())


def _polygons(mask: NDArray[np.uint8]) -> list[list[float]]:
    """COCO polygons of the outer contours; tiny ones are left out unless there is no other."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    shapes = [cv2.approxPolyDP(c, 0.8, True) for c in sorted(contours, key=cv2.contourArea)[::-1]]
    kept = [s for s in shapes if len(s) >= 3 and cv2.contourArea(s) >= 8]
    if not kept:
        x, y, w, h = _bbox_xywh(mask)
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return [[float(v) for v in shape.ravel()] for shape in kept]


def annotate_crowd(canvas: Canvas, owner: int) -> dict[str, Any] | None:
    """One crowd region as uncompressed column-major run lengths, zeros first; None if unseen."""
    mask = _silhouette(canvas, owner)
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
