"""EXIF orientation: how stored pixels and their coordinates are turned to be displayed.

Orientation 1..8 as in EXIF 2.32, tag 0x0112: mirrored along x or y, then x and y exchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MIRROR_X = frozenset((2, 3, 7, 8))
MIRROR_Y = frozenset((3, 4, 6, 7))


def exchanges_sides(orientation: int) -> bool:
    """Whether width and height are exchanged."""
    return orientation >= 5


def upright_image(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels (H, W, C) as displayed, of pixels as stored."""
    if orientation in MIRROR_X:
        image = image[:, ::-1]
    if orientation in MIRROR_Y:
        image = image[::-1]
    return np.ascontiguousarray(image.swapaxes(0, 1) if exchanges_sides(orientation) else image)


def upright_points(
    points: NDArray[Any], stored_wh: tuple[int, int], orientation: int
) -> NDArray[np.float64]:
    """Pixel coordinates x, y (N, 2) in the displayed image, of those in the stored image.

    >>> upright_points(np.array([[0.0, 10.0]]), (40, 30), 6)
    array([[19.,  0.]])
    """
    turned = np.array(points, dtype=np.float64)
    for axis, orientations in enumerate((MIRROR_X, MIRROR_Y)):
        if orientation in orientations:
            turned[:, axis] = stored_wh[axis] - 1 - turned[:, axis]
    return turned[:, ::-1] if exchanges_sides(orientation) else turned


def upright_bbox(
    bbox_xywh: tuple[float, ...], stored_wh: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """xywh in the displayed image, of a box in the stored image."""
    x, y, w, h = bbox_xywh
    corners = upright_points(np.array([[x, y], [x + w, y + h]]), stored_wh, orientation)
    left, top = corners.min(0).tolist()
    return (left, top, h, w) if exchanges_sides(orientation) else (left, top, w, h)
