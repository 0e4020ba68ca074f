"""Combined codec: discs and offsets as the formulas say; decoding as OpenCV does it, map by map."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pose.codecs import combined, encode

MAP_WH, RADIUS = (24, 32), 3.2


def test_targets_are_centers_and_weights() -> None:
    """A keypoint outside the map keeps its weight; an unlabelled one has its center at 0."""
    centers = np.array([[3.5, 4.0], [-500.0, 7.0], [np.nan, np.inf], [9.0, 9.0]])
    targets = encode.combined_targets(centers, np.array([1.0, 1.0, 0.0, 0.4]))
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(
        targets, np.float32([[3.5, 4, 1], [-500, 7, 1], [0, 0, 0], [0, 0, 0.4]])
    )


def test_maps_are_disc_and_offsets_over_the_whole_map() -> None:
    x, y = 9.7, 14.9
    targets = torch.tensor([[[x, y, 1.0], [x, y, 0.0], [-500.0, 3.0, 1.0]]])
    maps = combined.render_maps(targets, MAP_WH, RADIUS)[0].numpy()
    assert maps.shape == (9, 32, 24)
    rows, columns = np.mgrid[:32, :24]
    np.testing.assert_array_equal(maps[0], np.hypot(x - columns, y - rows) <= RADIUS)
    np.testing.assert_allclose(maps[1], (x - columns) / RADIUS, atol=1e-5)
    np.testing.assert_allclose(maps[2], (y - rows) / RADIUS, atol=1e-5)
    assert not maps[3:6].any()  # unlabelled
    assert not maps[6].any()  # the disc of a keypoint outside the map
    assert maps[7, 0, 0] == pytest.approx(-500 / RADIUS)


@pytest.mark.parametrize("refine", [True, False])
def test_decoding_equals_the_opencv_loop_on_noisy_maps(refine: bool) -> None:
    """Blur of 2 k + 1 cells with OpenCV's own border, argmax, offsets at that cell times radius."""
    maps = np.random.default_rng(2).normal(0, 1, (1, 51, 32, 24)).astype(np.float32)
    cells, scores = combined.decode_maps(torch.from_numpy(maps), RADIUS, 5, refine)
    for k in range(17):
        disc = cv2.GaussianBlur(maps[0, 3 * k], (11, 11), 0)
        row, column = np.unravel_index(disc.argmax(), disc.shape)
        expected = np.array([column, row], np.float64)
        if refine:
            expected += RADIUS * maps[0, 3 * k + 1 : 3 * k + 3, row, column]
        np.testing.assert_allclose(cells[0, k], expected, atol=1e-4)
        assert scores[0, k] == pytest.approx(disc.max(), abs=1e-6)


def test_a_peak_that_is_not_positive_is_not_refined() -> None:
    maps = torch.full((1, 3, 32, 24), -1.0)
    cells, scores = combined.decode_maps(maps, RADIUS, 5, refine=True)
    assert (scores <= 0).all()
    assert torch.equal(cells, cells.round())
