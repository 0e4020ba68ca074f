"""Box geometry and affines, against cases by hand and loops over the official formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pose.codecs import geometry

INPUT_WH = (48, 64)


@pytest.mark.parametrize(
    ("scale", "fixed"),
    [
        ((30, 40), (30, 40)),
        ((60, 40), (60, 80)),
        ((36, 40), (36, 48)),
        ((30, 80), (60, 80)),
        ((0, 80), (60, 80)),
    ],
)
def test_fix_aspect_grows_the_short_side(scale, fixed) -> None:
    np.testing.assert_allclose(geometry.fix_aspect(np.array(scale, float), INPUT_WH), fixed)


def test_center_scale_of_a_box() -> None:
    bbox = np.array([10.0, 20.0, 60.0, 40.0])
    center, scale = geometry.bbox_to_center_scale(bbox, 1.25, INPUT_WH)
    np.testing.assert_allclose(center, (40, 40))
    np.testing.assert_allclose(scale, (75, 100))


def test_the_box_fills_the_input_from_pixel_centre_to_pixel_centre() -> None:
    center, scale = np.array([50.0, 40.0]), np.array([30.0, 40.0])
    affine = geometry.udp_affine(center, scale, 0.0, INPUT_WH)
    corners = np.array([[35, 20], [65, 20], [35, 60], [65, 60], [50, 40]], float)
    expected = [[0, 0], [47, 0], [0, 63], [47, 63], [23.5, 31.5]]
    np.testing.assert_allclose(geometry.apply_affine(affine, corners), expected, atol=1e-12)


def test_a_positive_angle_turns_the_picture_clockwise() -> None:
    center, scale = np.array([50.0, 40.0]), np.array([47.0, 63.0])
    affine = geometry.udp_affine(center, scale, 90.0, INPUT_WH)
    right_of_center = geometry.apply_affine(affine, center + np.array([10, 0]))
    np.testing.assert_allclose(right_of_center, (23.5, 31.5 + 10), atol=1e-12)


@pytest.mark.parametrize("angle", [-80.0, -10.0, 0.0, 33.0, 180.0])
def test_udp_affine_is_shift_turn_stretch(angle: float) -> None:
    """A second way: to the centre, turn, shift half the box back, stretch to the input."""
    rng = np.random.default_rng(0)
    center, scale = rng.uniform(20, 200, 2), rng.uniform(20, 200, 2)
    points = rng.uniform(0, 300, (7, 2))
    affine = geometry.udp_affine(center, scale, angle, INPUT_WH)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for point, found in zip(points, geometry.apply_affine(affine, points), strict=True):
        x, y = point - center
        turned = np.array([c * x - s * y, s * x + c * y])
        expected = (turned + scale / 2) * (np.array(INPUT_WH) - 1) / scale
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_mirror_maps_pixel_centres_onto_pixel_centres() -> None:
    points = np.array([[0.0, 5.0], [99.0, 6.0], [49.5, 7.0]])
    mirrored = geometry.apply_affine(geometry.mirror_affine(100), points)
    np.testing.assert_array_equal(mirrored, [[99, 5], [0, 6], [49.5, 7]])


def test_compose_applies_the_first_one_first() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 2, 3))
    points = rng.normal(size=(5, 2))
    expected = geometry.apply_affine(second, geometry.apply_affine(first, points))
    found = geometry.apply_affine(geometry.compose(second, first), points)
    np.testing.assert_allclose(found, expected)


def test_translate() -> None:
    moved = geometry.apply_affine(geometry.translate(np.array([3.0, -4.0])), np.ones((2, 2)))
    np.testing.assert_array_equal(moved, [[4, -3], [4, -3]])


def test_factor_maps_last_pixel_to_last_cell() -> None:
    factor = geometry.input_to_heatmap_factor((768, 1024), (192, 256))
    np.testing.assert_allclose(factor * (767, 1023), (191, 255))


def test_heatmap_corners_are_the_box_corners() -> None:
    center, scale = np.array([[50.0, 40.0]]), np.array([[30.0, 40.0]])
    cells = np.array([[[0.0, 0.0], [23.0, 31.0], [11.5, 15.5]]])
    found = geometry.heatmap_to_image(cells, center, scale, (24, 32))
    np.testing.assert_allclose(found, [[[35, 20], [65, 60], [50, 40]]])


@pytest.mark.parametrize(
    ("scale", "factor", "shift", "angle"),
    [
        ((30, 40), 0.0, 0.0, 0.0),
        ((30, 40), 0.5, 0.0, 0.0),
        ((30, 40), 0.0, 0.2, 0.0),
        ((30, 40), 0.2, 0.1, 20.0),
        ((30, 40), 0.5, 0.16, 80.0),
        ((30, 40), 0.0, 0.0, 180.0),
    ],
)
def test_context_size_is_the_largest_reach(scale, factor, shift, angle) -> None:
    """A second way: the corners of the zoomed box at every angle, moved by the largest shift."""
    w, h = np.array(scale) * (1 + factor) / 2
    angles = np.radians(np.linspace(0, angle, 2001))
    reach_x = (w * np.cos(angles) + h * np.sin(angles)).max() + shift * scale[0]
    reach_y = (h * np.cos(angles) + w * np.sin(angles)).max() + shift * scale[1]
    found = geometry.context_size(np.array(scale, float), factor, shift, angle)
    np.testing.assert_allclose(found, (2 * reach_x, 2 * reach_y), rtol=1e-6)


def test_zoom_room_is_what_every_context_holds() -> None:
    """Of 3 x 4 boxes: without a turn, the zoom-out and both shifts; a turn makes more room."""
    assert geometry.zoom_room((72, 96), 0.2, 0.1, 0.0) == pytest.approx(1.4)
    turned = geometry.zoom_room((72, 96), 0.2, 0.1, 20.0)
    size = geometry.context_size(np.array([72.0, 96.0]), 0.2, 0.1, 20.0)
    assert turned == pytest.approx(min(size / [72, 96]))
    assert turned > 1.4


@pytest.mark.parametrize(
    ("scale_xy", "cubic"), [((0.9, 2.0), False), ((2.0, 0.9), False), ((1.0, 1.0), True)]
)
def test_cubic_is_for_crops_that_grow_along_both_axes(scale_xy, cubic: bool) -> None:
    """At scale 1 a half pixel's shift tells the two apart."""
    crop = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    sx, sy = scale_xy
    affine = np.array([[sx, 0.0, 0.5], [0.0, sy, 0.5]])
    linear, found = (geometry.warp(crop, affine, (24, 32), kind) for kind in ("linear", "cubic"))
    assert (np.abs(found.astype(int) - linear).max() > 10) == cubic
    np.testing.assert_array_equal(geometry.warp(crop, affine, (24, 32)), linear)
    assert geometry.enlarges(affine) == cubic


def test_the_size_of_a_pixel_is_measured_along_the_outputs_axes() -> None:
    half = math.sqrt(0.5)
    turned = np.array([[2 * half, -2 * half, 0.0], [0.9 * half, 0.9 * half, 0.0]])
    assert not geometry.enlarges(turned)


@pytest.mark.parametrize("angle", [30.0, -75.0])
def test_a_rotation_is_no_change_of_size(angle: float) -> None:
    center = np.array([50.0, 40.0])
    for factor, larger in ((0.99, True), (1.01, False)):
        scale = np.array([47.0, 63.0]) * factor
        assert geometry.enlarges(geometry.udp_affine(center, scale, angle, INPUT_WH)) == larger
