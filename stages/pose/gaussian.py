"""UDP gaussian heatmaps: encode, and decode with DARK refinement, batched in torch.

Source: mmpose/codecs/udp_heatmap.py (gaussian) of the Sapiens fork; DARK from Zhang et al., CVPR
2020. Coordinates in and out are heatmap cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    it keeps its weight and a partial gaussian, as in the official code. Where the weight is below
    0.5 the map stays empty and the centre becomes 0, so that NaN coordinates cannot leak.
    """
    labelled = keypoint_weights[:, None] >= 0.5
    centers = np.where(labelled, keypoints_heatmap, 0.0)
    nearest, radius = np.trunc(centers + 0.5), 3 * sigma
    first, last = np.trunc(nearest - radius), np.trunc(nearest + radius + 1)
    inside = ((first < np.array(heatmap_wh)) & (last >= 0)).all(1, keepdims=True)
    weights = np.where(labelled & ~inside, 0.0, keypoint_weights[:, None])
    return np.hstack([np.where(inside, centers, 0.0), weights]).astype(np.float32)


def render_heatmaps(targets: Tensor, heatmap_wh: tuple[int, int], sigma: float) -> Tensor:
    """Heatmaps (B, K, H, W) in [0, 1] from targets (B, K, 3), on the targets' device.

    The 2-D gaussian is the outer product of two 1-D ones, each cut to the 3-sigma window around
    the nearest cell: the official map, in one batched call. The official window's corner is cut
    toward zero; where 3 sigma is no whole number the gaussian slips with it, by a cell at most (at
    the left and upper edge for sigma 1.5).
    """
    columns = _gaussian_1d(targets[..., 0], heatmap_wh[0], sigma)
    rows = _gaussian_1d(targets[..., 1], heatmap_wh[1], sigma) * (targets[..., 2:] >= 0.5)
    return rows[..., :, None] * columns[..., None, :]


def _gaussian_1d(centers: Tensor, length: int, sigma: float) -> Tensor:
    cells = torch.arange(length, device=centers.device, dtype=centers.dtype)
    nearest, radius = torch.trunc(centers + 0.5), 3 * sigma
    first, last = torch.trunc(nearest - radius), torch.trunc(nearest + radius + 1)
    inside = (cells >= first[..., None]) & (cells < last[..., None])
    slipped = centers + (first + math.floor(radius + 0.5) - nearest)
    return torch.exp(-((cells - slipped[..., None]) ** 2) / (2 * sigma**2)) * inside


def argmax_decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Peak cell (B, K, 2) as x, y floats, and its raw height (B, K) as score.

    The first maximum in row-major order wins. Scores are not clamped, and may exceed 1 or be <= 0.
    """
    width = heatmaps.shape[-1]
    scores, flat = heatmaps.flatten(2).max(dim=2)
    return torch.stack([flat % width, flat // width], dim=2).to(heatmaps.dtype), scores


@dataclass(frozen=True)
class Blur:
    """Of maps before their peak is refined; names of params.yaml's `codec`.

    blur_border: "zero" pads with zeros and keeps each map's maximum, as Sapiens and mmpose 1.x
    (refine_keypoints_dark_udp); "mirror" mirrors the edges, as ViTPose (mmpose 0.x,
    post_dark_udp).
    """

    blur_kernel_size: int
    blur_border: str = "zero"


def dark_decode(heatmaps: Tensor, blur: Blur) -> tuple[Tensor, Tensor]:
    """Sub-cell peak (B, K, 2) and raw height (B, K) of heatmaps (B, K, H, W), in float32.

    Blur, log, one Newton step from the peak cell. Where the score is <= 0 the official code
    divides 0 by 0; there we return the peak cell unrefined, its score tells that it is no find.
    """
    heatmaps = heatmaps.float()
    peaks, scores = argmax_decode(heatmaps)
    blurred = mirror_blurred if blur.blur_border == "mirror" else _zero_blurred
    log_maps = blurred(heatmaps, blur.blur_kernel_size).clamp(1e-3, 50.0).log()
    step = _newton_step(log_maps, peaks)
    return torch.where(scores[..., None] > 0, peaks - step, peaks), scores


def _zero_blurred(heatmaps: Tensor, kernel_size: int) -> Tensor:
    """Zero-padded gaussian blur of each map, rescaled so that its maximum is kept.

    Where the blurred maximum is negative, so is the gain: the official code's arithmetic.
    """
    half = kernel_size // 2
    maps = _convolved(F.pad(heatmaps, [half] * 4), kernel_size)
    return maps * (heatmaps.amax((2, 3), keepdim=True) / maps.amax((2, 3), keepdim=True))


def mirror_blurred(maps: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur of each map (B, K, H, W), edges mirrored without repeating them (OpenCV's)."""
    rows, columns = (_mirrored(n, kernel_size // 2).to(maps.device) for n in maps.shape[2:])
    return _convolved(maps[:, :, rows][..., columns], kernel_size)


def _mirrored(length: int, margin: int) -> Tensor:
    """Indices -margin .. length + margin - 1, mirrored into 0 .. length - 1."""
    places = range(-margin, length + margin)
    return torch.tensor([cv2.borderInterpolate(i, length, cv2.BORDER_REFLECT_101) for i in places])


def _convolved(padded: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur of maps (B, K, H + k - 1, W + k - 1), which shrinks them to (B, K, H, W)."""
    kernel = blur_kernel(kernel_size).to(padded.device)
    planes = padded.flatten(0, 1)[:, None]
    planes = F.conv2d(planes, kernel[None, None, None, :])
    planes = F.conv2d(planes, kernel[None, None, :, None])
    return planes[:, 0].unflatten(0, padded.shape[:2])


def blur_kernel(size: int) -> Tensor:
    """(size,) gaussian of OpenCV's automatic sigma: fixed tables for small sizes, else
    0.3 * ((size - 1) * 0.5 - 1) + 0.8.
    """
    return torch.from_numpy(cv2.getGaussianKernel(size, 0, cv2.CV_32F)[:, 0])


def _newton_step(log_maps: Tensor, peaks: Tensor) -> Tensor:
    """H^-1 g (B, K, 2) of the log maps at the peak cells, borders repeated by one cell.

    Differences in float32, the inverse in float64, as the official code's.
    """
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
    hxx = (at(1, 0) - 2 * center + at(-1, 0)).double() + tiny
    hyy = (at(0, 1) - 2 * center + at(0, -1)).double() + tiny
    corners = at(1, 1) - at(1, 0) - at(0, 1) + 2 * center - at(-1, 0) - at(0, -1) + at(-1, -1)
    hxy = (corners / 2).double()
    determinant = hxx * hyy - hxy * hxy
    steps = [hyy * gx - hxy * gy, hxx * gy - hxy * gx]
    return (torch.stack(steps, dim=2) / determinant[..., None]).float()
