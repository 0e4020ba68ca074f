"""UDP encoding and DARK decoding against loops and OpenCV, cell by cell."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from pose.codecs import encode, gaussian

MAP_WH = (24, 32)
SIGMA = 1.5


def official_map(center, weight: float, map_wh, sigma: float) -> tuple[np.ndarray, float]:
    """mmpose/codecs/utils/gaussian_heatmap.py, generate_udp_gaussian_heatmaps, one keypoint."""
    width, height = map_wh
    out, radius = np.zeros((height, width)), sigma * 3
    if weight < 0.5:
        return out, weight
    mu_x, mu_y = center
    near_x, near_y = int(mu_x + 0.5), int(mu_y + 0.5)
    left, top = int(near_x - radius), int(near_y - radius)
    right, bottom = int(near_x + radius + 1), int(near_y + radius + 1)
    if left >= width or top >= height or right < 0 or bottom < 0:
        return out, 0.0
    middle = (2 * radius + 1) // 2
    x0, y0 = left + middle + mu_x - near_x, top + middle + mu_y - near_y
    for y in range(max(0, top), min(bottom, height)):
        for x in range(max(0, left), min(right, width)):
            out[y, x] = math.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    return out, weight


CENTERS = [
    (0.0, 0.0),
    (11.3, 17.8),
    (11.5, 17.5),
    (23.0, 31.0),
    (0.4, 30.6),
    (-2.0, 10.0),
    (-4.9, 10.0),
    (-5.1, 10.0),
    (-6.2, 10.0),
    (12.0, -8.0),
    (27.4, 10.0),
    (28.6, 10.0),
    (12.0, 36.4),
    (12.0, 37.2),
    (400.0, -400.0),
]


@pytest.mark.parametrize("sigma", [1.3, 1.5, 1.7, 2.0])
@pytest.mark.parametrize("center", CENTERS)
def test_map_and_weight_equal_the_official_loop(center, sigma: float) -> None:
    for weight in (0.0, 0.4, 0.5, 0.51, 1.0):
        expected, expected_weight = official_map(center, weight, MAP_WH, sigma)
        target = encode.gaussian_targets(np.array([center]), np.array([weight]), MAP_WH, sigma)
        found = gaussian.render_heatmaps(torch.from_numpy(target)[None], MAP_WH, sigma)[0, 0]
        assert target[0, 2] == np.float32(expected_weight)
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_targets_are_centre_and_weight_in_cells() -> None:
    centers = np.array([[3.25, 4.5], [np.nan, np.nan], [-99.0, 4.5]])
    found = encode.gaussian_targets(centers, np.array([1.0, 0.0, 1.0]), MAP_WH, SIGMA)
    np.testing.assert_array_equal(found, np.float32([[3.25, 4.5, 1], [0, 0, 0], [0, 0, 0]]))
    assert found.dtype == np.float32


def test_render_is_batched_and_weightless_maps_stay_empty() -> None:
    targets = torch.tensor([[[5.0, 6.0, 1.0], [7.0, 8.0, 0.0]], [[11.0, 12.0, 1.0]] * 2])
    found = gaussian.render_heatmaps(targets, MAP_WH, SIGMA)
    assert found.shape == (2, 2, 32, 24)
    assert found[0, 0, 6, 5] == 1
    assert found[1, 1, 12, 11] == 1
    assert not found[0, 1].any()


def test_argmax_takes_the_first_maximum_and_raw_height() -> None:
    maps = torch.zeros(1, 3, 4, 5)
    maps[0, 0, 3, 2] = maps[0, 0, 3, 4] = 2.5
    maps[0, 1] = -1
    peaks, scores = gaussian.argmax_decode(maps)
    assert peaks[0].tolist() == [[2, 3], [0, 0], [0, 0]]
    assert scores[0].tolist() == [2.5, -1, 0]


def official_dark(heatmap: np.ndarray, kernel_size: int, border: str = "zero") -> np.ndarray:
    """mmpose/codecs/utils/refinement.py, refine_keypoints_dark_udp, one map.

    border mirror: ViTPose's post_dark_udp, which leaves the border to OpenCV and rescales nothing.
    """
    height, width = heatmap.shape
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    half = kernel_size // 2
    blurred = cv2.GaussianBlur(np.pad(heatmap, half), (kernel_size, kernel_size), 0)
    blurred = blurred[half : half + height, half : half + width]
    blurred = blurred * (heatmap.max() / blurred.max())
    if border == "mirror":
        blurred = cv2.GaussianBlur(heatmap, (kernel_size, kernel_size), 0)
    log = np.pad(np.log(np.clip(blurred, 1e-3, 50)), 1, mode="edge").astype(np.float64)
    y, x = y + 1, x + 1
    i, up, down = log[y, x], log[y - 1, x], log[y + 1, x]
    left, right = log[y, x - 1], log[y, x + 1]
    gradient = [(right - left) / 2, (down - up) / 2]
    mixed = log[y + 1, x + 1] - right - down + 2 * i - left - up + log[y - 1, x - 1]
    hessian = np.array([[right - 2 * i + left, mixed / 2], [mixed / 2, down - 2 * i + up]])
    hessian += np.finfo(np.float32).eps * np.eye(2)
    return np.array([x - 1, y - 1]) - np.linalg.solve(hessian, gradient)


@pytest.mark.parametrize("border", ["zero", "mirror"])
@pytest.mark.parametrize("kernel_size", [3, 7, 9, 11, 17])  # OpenCV tabulates 9 and less
def test_dark_equals_the_official_loop_on_noisy_maps(kernel_size: int, border: str) -> None:
    rng = np.random.default_rng(0)
    centers = np.concatenate([rng.uniform(0, 1, (14, 2)) * (23, 31), [[0, 0], [23, 31], [0, 16]]])
    targets = encode.gaussian_targets(centers, np.ones(17), MAP_WH, SIGMA)
    maps = gaussian.render_heatmaps(torch.from_numpy(targets)[None], MAP_WH, SIGMA)
    maps = maps + torch.from_numpy(rng.normal(0, 0.02, maps.shape)).float()
    found, scores = gaussian.dark_decode(maps, gaussian.Blur(kernel_size, border))
    expected = [official_dark(m, kernel_size, border) for m in maps[0].numpy()]
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-4)
    np.testing.assert_array_equal(scores[0].numpy(), maps[0].amax((1, 2)).numpy())


@pytest.mark.parametrize("height", [0.0012, 55.0, 60.0, 400.0])
def test_dark_clips_as_the_official_loop(height: float) -> None:
    """Below 1e-3 and above 50 the logarithm is flat, which shortens or stops the step."""
    targets = encode.gaussian_targets(np.array([[11.3, 16.8]]), np.ones(1), MAP_WH, SIGMA)
    maps = gaussian.render_heatmaps(torch.from_numpy(targets)[None], MAP_WH, SIGMA) * height
    found, _ = gaussian.dark_decode(maps, gaussian.Blur(11))
    expected = official_dark(maps[0, 0].numpy(), 11)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-3)
    assert np.abs(expected - (11.3, 16.8)).max() > 0.01  # the clipping is felt


def test_dark_gives_each_map_of_a_batch_its_own_peak() -> None:
    rng = np.random.default_rng(1)
    centers = rng.uniform(8, 15, (6, 2))
    targets = encode.gaussian_targets(centers, np.ones(6), MAP_WH, SIGMA).reshape(3, 2, 3)
    maps = gaussian.render_heatmaps(torch.from_numpy(targets), MAP_WH, SIGMA)
    found, _ = gaussian.dark_decode(
        maps * torch.tensor([1.0, 0.5, 3.0])[:, None, None, None], gaussian.Blur(11)
    )
    np.testing.assert_allclose(found.reshape(6, 2).numpy(), centers, atol=0.02)


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_dark_leaves_maps_without_a_find_at_their_peak_cell(level: float) -> None:
    found, scores = gaussian.dark_decode(torch.full((1, 1, 8, 6), level), gaussian.Blur(11))
    assert found.tolist() == [[[0, 0]]]
    assert scores.tolist() == [[level]]


@pytest.mark.parametrize("border", ["zero", "mirror"])
def test_an_exported_program_decodes_to_the_same_bits(border: str) -> None:
    """Maps of all heights, one without a positive value and some with several maxima."""
    maps = torch.rand(3, 17, 16, 12, generator=torch.Generator().manual_seed(0))
    maps = maps * torch.logspace(-4, 2, 17)[:, None, None]
    maps[0, 0], maps[1, :, 3:7] = -1.0, 100.0

    class Decode(torch.nn.Module):
        def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return gaussian.dark_decode(maps, gaussian.Blur(11, border))

    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Decode(), (maps[:2],), dynamic_shapes=batch).module()
    for found, expected in zip(program(maps), Decode()(maps), strict=True):
        assert torch.equal(found, expected)
