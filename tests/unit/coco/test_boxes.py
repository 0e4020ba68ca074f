"""Boxes are clipped to pixel centres."""

from __future__ import annotations

import numpy as np
import pytest

from pose.coco.boxes import clip_bbox


@pytest.mark.parametrize(
    ("bbox", "clipped"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0)),
        ((10, 20, 30, 40), (10, 20, 30, 40)),
        ((-10, -5, 30, 40), (0, 0, 20, 35)),
        ((90, 70, 30, 40), (90, 70, 9, 9)),
        ((-50, -50, 500, 500), (0, 0, 99, 79)),
        ((200, 10, 5, 5), (99, 10, 0, 5)),
    ],
)
def test_clip_bbox_to_pixel_centres(bbox, clipped) -> None:
    assert clip_bbox(np.array(bbox, float), (100, 80)).tolist() == list(clipped)
