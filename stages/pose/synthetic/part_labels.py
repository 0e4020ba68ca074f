"""COCO-WholeBody's lists of feet, face and hands for an annotation of labels.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose.common.whole_body import BODY, PARTS
from pose.synthetic.canvas import Canvas, Vector
from pose.synthetic.details import DetailedPainter
from pose.synthetic.labels import near, silhouette
from pose.synthetic.painter import FOREARM, HEAD, SHIN

BODY_PARTS = {
    "foot": {*SHIN},
    "face": {HEAD},
    "lefthand": {FOREARM[0]},
    "righthand": {FOREARM[1]},
}
MIN_PIXELS = {"foot": 0.0, "face": 12.0, "lefthand": 7.0, "righthand": 7.0}  # extent; else invalid
MIN_SHARE = {"foot": 0.01, "face": 0.7, "lefthand": 0.6, "righthand": 0.6}  # of points labelled
MIN_FACING = 0.3  # cosine between the face's direction and that to the camera
CONFIDENCE = (0.3, 1.0)  # of labelled points of hands, whose visibility is one in COCO-WholeBody


def empty_parts(parts: Sequence[str]) -> dict[str, Any]:
    """The lists and flags of a person none of whose parts is labelled."""
    return {
        key: value
        for part in parts
        if part != BODY
        for key, value in _entry(part, np.zeros((len(PARTS[part].names), 3))).items()
    }


def annotate_parts(
    canvas: Canvas, painter: DetailedPainter, parts: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    """The lists and flags of a person of whom at least labels.MIN_PIXELS are visible."""
    mask = silhouette(canvas, painter.instance)
    assert mask is not None
    entries: dict[str, Any] = {}
    for part in parts:
        if part != BODY:
            entries |= _entry(part, _labelled(canvas, painter, part, mask, rng))
    return entries


def _entry(part: str, points: Vector) -> dict[str, Any]:
    valid = bool(points[:, 2].any())
    return {f"{part}_kpts": points.round(3).reshape(-1).tolist(), f"{part}_valid": valid}


def _labelled(
    canvas: Canvas,
    painter: DetailedPainter,
    part: str,
    mask: NDArray[np.uint8],
    rng: np.random.Generator,
) -> Vector:
    """(K, 3) x, y, visibility; all 0 if the part is too small, turned away or hidden."""
    points = painter.part_image(part)
    visibility = _visibility(canvas, painter.instance, points, BODY_PARTS[part], mask)
    confidence = rng.uniform(*CONFIDENCE, len(points))
    away = part == "face" and painter.figure.head_rotation[2, 2] < MIN_FACING
    small = np.ptp(points, axis=0).max() < MIN_PIXELS[part]
    if away or small or (visibility > 0).mean() < MIN_SHARE[part]:
        return np.zeros((len(points), 3))
    if part.endswith("hand"):
        visibility = np.where(visibility > 0, confidence, 0.0)
    labelled = np.where(visibility[:, None] > 0, points, 0.0)
    return np.concatenate([labelled, visibility[:, None]], axis=1)


def _visibility(
    canvas: Canvas, instance: int, points: Vector, parts: set[int], mask: NDArray[np.uint8]
) -> Vector:
    """(K,) 2 visible, 1 behind another part of the person, 0 outside or behind anything else."""
    height, width = canvas.instances.shape
    visibility = np.zeros(len(points))
    for k, (x, y) in enumerate(points.tolist()):
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            continue
        row, col = round(y), round(x)
        if canvas.instances[row, col] == instance:
            visibility[k] = 2 if int(canvas.parts[row, col]) in parts else 1
        elif near(mask, row, col, 1):
            visibility[k] = 2
    return visibility
