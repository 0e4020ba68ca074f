"""UDP gaussian heatmaps: encode, and decode with DARK refinement, batched in torch.

Source: mmpose/codecs/udp_heatmap.py (gaussian) of the Sapiens fork; DARK from Zhang et al., CVPR
2020. Coordinates in and out are heatmap cells.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def encode_targets(
    keypoints_heatmap: NDArray[np.float64],
    keypoint_weights: NDArray[np.float64],
    heatmap_wh: tuple[int, int],
    sigma: float,
) -> NDArray[np.float32]:
    """(K, 3) targets: gaussian centre x, y in cells and the loss weight in [0, 1].

    keypoint_weights (K,) is min(1, COCO visibility): occluded weighs as much as visible. The weight
    becomes 0 where the 3-sigma window misses the map; a keypoint outside whose window still touches
    it keeps its weight and a partial gaussian, as in the official code. Below 0.5 a keypoint is
    unlabelled: its centre becomes 0, so that NaN coordinates cannot leak, and its map stays empty.
    """
    labelled = keypoint_weights >= 0.5
    centers = np.where(labelled[:, None], keypoints_heatmap, 0.0)
    nearest, radius = np.trunc(centers + 0.5), 3 * sigma
    first, last = np.trunc(nearest - radius), np.trunc(nearest + radius + 1)
    inside = (first < np.array(heatmap_wh)).all(1) & (last >= 0).all(1)
    weights = np.where(labelled & ~inside, 0.0, keypoint_weights)
    return np.concatenate([centers, weights[:, None]], axis=1).astype(np.float32)


def render_heatmaps(targets: Tensor, heatmap_wh: tuple[int, int], sigma: float) -> Tensor:
    """Heatmaps (B, K, H, W) in [0, 1] from targets (B, K, 3), on the targets' device.

    The 2-D gaussian is the outer product of two 1-D ones, each cut to the 3-sigma window around
    the nearest cell: exactly the official map, in one batched call.
    """
    columns = _gaussian_1d(targets[..., 0], heatmap_wh[0], sigma)
    rows = _gaussian_1d(targets[..., 1], heatmap_wh[1], sigma) * (targets[..., 2:] >= 0.5)
    return rows[..., :, None] * columns[..., None, :]


def _gaussian_1d(centers: Tensor, length: int, sigma: float) -> Tensor:
    cells = torch.arange(length, device=centers.device, dtype=centers.dtype)
    nearest, radius = torch.trunc(centers + 0.5), 3 * sigma
    first, last = torch.trunc(nearest - radius), torch.trunc(nearest + radius + 1)
    inside = (cells >= first[..., None]) & (cells < last[..., None])
    return torch.exp(-((cells - centers[..., None]) ** 2) / (2 * sigma**2)) * inside


def argmax_decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Peak cell (B, K, 2) as x, y floats, and its raw height (B, K) as score.

    The first maximum in row-major order wins. Scores are not clamped, and may exceed 1 or be <= 0.
    """
    width = heatmaps.shape[-1]
    scores, flat = heatmaps.flatten(2).max(dim=2)
    return torch.stack([flat % width, flat // width], dim=2).to(heatmaps.dtype), scores


def dark_decode(heatmaps: Tensor, blur_kernel_size: int) -> tuple[Tensor, Tensor]:
    """Sub-cell peak (B, K, 2) and raw height (B, K) of heatmaps (B, K, H, W), in float32.

    Blur, log, one Newton step from the peak cell. Where the score is <= 0 the official code
    divides 0 by 0; there we return the peak cell unrefined, its score tells that it is no find.
    """
    heatmaps = heatmaps.float()
    peaks, scores = argmax_decode(heatmaps)
    log_maps = _blurred(heatmaps, blur_kernel_size).clamp(1e-3, 50.0).log()
    step = _newton_step(log_maps, peaks)
    return torch.where(scores[..., None] > 0, peaks - step, peaks), scores


def _blurred(heatmaps: Tensor, kernel_size: int) -> Tensor:
    """Zero-padded gaussian blur of each map, rescaled so that its maximum is kept."""
    kernel = blur_kernel(kernel_size).to(heatmaps.device)
    batch, keypoints, height, width = heatmaps.shape
    maps = heatmaps.reshape(batch * keypoints, 1, height, width)
    half = kernel_size // 2
    maps = F.conv2d(maps, kernel[None, None, None, :], padding=(0, half))
    maps = F.conv2d(maps, kernel[None, None, :, None], padding=(half, 0))
    maps = maps.reshape(heatmaps.shape)
    gain = heatmaps.amax((2, 3), keepdim=True) / maps.amax((2, 3), keepdim=True).clamp_min(1e-12)
    return maps * gain


def blur_kernel(size: int) -> Tensor:
    """(size,) gaussian of OpenCV's automatic sigma: fixed tables for small sizes, else
    0.3 * ((size - 1) * 0.5 - 1) + 0.8.
    """
    return torch.from_numpy(cv2.getGaussianKernel(size, 0, cv2.CV_32F)[:, 0])


def _newton_step(log_maps: Tensor, peaks: Tensor) -> Tensor:
    """H^-1 g (B, K, 2) of the log maps at the peak cells, borders repeated by one cell."""
    padded = F.pad(log_maps, (1, 1, 1, 1), mode="replicate")
    width = padded.shape[3]
    flat = padded.flatten(2)
    x, y = peaks[..., 0].long() + 1, peaks[..., 1].long() + 1

    def at(dx: int, dy: int) -> Tensor:
        index = (y + dy) * width + x + dx
        return flat.gather(2, index[..., None])[..., 0]

    center = at(0, 0)
    gx, gy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    tiny = torch.finfo(torch.float32).eps
    hxx = at(1, 0) - 2 * center + at(-1, 0) + tiny
    hyy = at(0, 1) - 2 * center + at(0, -1) + tiny
    corners = at(1, 1) - at(1, 0) - at(0, 1) + 2 * center - at(-1, 0) - at(0, -1) + at(-1, -1)
    hxy = corners / 2
    determinant = hxx * hyy - hxy * hxy
    steps = [hyy * gx - hxy * gy, hxx * gy - hxy * gx]
    return torch.stack(steps, dim=2) / determinant[..., None]
