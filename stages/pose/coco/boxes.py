"""Clip boxes in COCO's format: x, y, width, height in image pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def clip_bbox(bbox_xywh: Array, image_wh: tuple[int, int]) -> Array:
    """xywh with both corners clipped to [0, W-1] x [0, H-1], as mmpose's COCO reader does.

    >>> clip_bbox(np.array([-5.0, 10.0, 20.0, 100.0]), (64, 48))
    array([ 0., 10., 15., 37.])
    """
    x, y, w, h = bbox_xywh
    limit_x, limit_y = image_wh[0] - 1, image_wh[1] - 1
    x1, y1 = min(max(x, 0.0), limit_x), min(max(y, 0.0), limit_y)
    x2, y2 = min(max(x + w, 0.0), limit_x), min(max(y + h, 0.0), limit_y)
    return np.array([x1, y1, x2 - x1, y2 - y1])
