"""EXIF orientations 1..8 against Pillow, pixels and coordinates alike."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from pose.coco.orientation import upright_bbox, upright_image, upright_points

STORED_WH = (7, 5)


def as_pillow_shows(stored: np.ndarray, orientation: int) -> np.ndarray:
    image = PIL.Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    return np.asarray(PIL.ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_points_and_boxes_move_together(orientation: int) -> None:
    stored = np.arange(35, dtype=np.uint8).reshape(5, 7)
    shown = as_pillow_shows(stored, orientation)
    np.testing.assert_array_equal(upright_image(stored[..., None], orientation)[..., 0], shown)
    for y, x in np.ndindex(stored.shape):
        [[u, v]] = upright_points(np.array([[x, y]]), STORED_WH, orientation)
        assert shown[int(v), int(u)] == stored[y, x]
    corners = np.array([[1, 0], [4, 3], [1, 3], [4, 0]])
    turned = upright_points(corners, STORED_WH, orientation)
    size = np.ptp(turned, axis=0)
    found = upright_bbox((1, 0, 3, 3), STORED_WH, orientation)
    np.testing.assert_array_equal(found, [*turned.min(0), *size])


def test_a_box_exchanges_its_sides() -> None:
    assert upright_bbox((1, 2, 3, 1), STORED_WH, 6) == (1, 1, 1, 3)
    assert upright_bbox((1, 2, 3, 1), STORED_WH, 3) == (2, 1, 3, 1)
