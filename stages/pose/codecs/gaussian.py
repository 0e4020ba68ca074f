"""UDP gaussian codec: render heatmaps, and decode them with DARK refinement, batched in torch.

Source: mmpose/codecs/udp_heatmap.py (gaussian) of the Sapiens fork; DARK from Zhang et al., CVPR
2020. All coordinates are in heatmap cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

LOG_RANGE = (1e-3, 50.0)  # heatmap values are clamped to it before the logarithm


def render_heatmaps(targets: Tensor, heatmap_wh: tuple[int, int], sigma: float) -> Tensor:
    """Heatmaps (B, K, H, W) in [0, 1] from targets (B, K, 3), on the targets' device.

    The 2-D gaussian is the outer product of two 1-D ones, each cut to the 3-sigma window around the
    nearest cell: the official map, in one batched call. The official code truncates the corner
    of the window toward zero; if 3 sigma is not an integer the gaussian moves with it, by at most a
    cell (at the left and upper edge for sigma 1.5).
    """
    columns = _gaussian_1d(targets[..., 0], heatmap_wh[0], sigma)
    rows = _gaussian_1d(targets[..., 1], heatmap_wh[1], sigma) * (targets[..., 2:] >= 0.5)
    return rows[..., :, None] * columns[..., None, :]


def _gaussian_1d(centers: Tensor, length: int, sigma: float) -> Tensor:
    cells = torch.arange(length, device=centers.device, dtype=centers.dtype)
    nearest, radius = torch.trunc(centers + 0.5), 3 * sigma
    first, last = torch.trunc(nearest - radius), torch.trunc(nearest + radius + 1)
    inside = (cells >= first[..., None]) & (cells < last[..., None])
    shifted = centers + (first + math.floor(radius + 0.5) - nearest)
    return torch.exp(-((cells - shifted[..., None]) ** 2) / (2 * sigma**2)) * inside


def argmax_decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Cell of the maximum (B, K, 2) as x, y floats, and its value (B, K) as score.

    Of several maxima the first in row-major order is taken. Scores are not clamped: they may exceed
    1 or be <= 0.

    >>> argmax_decode(torch.tensor([[[[0.0, 0.1, 0.0], [0.0, 0.0, 0.9]]]]))  # (1, 1, 2, 3)
    (tensor([[[2., 1.]]]), tensor([[0.9000]]))
    """
    width, planes = heatmaps.shape[-1], heatmaps.flatten(2)
    on_cpu = planes.device.type == "cpu" and planes.dtype == torch.float32
    if on_cpu and not torch.compiler.is_exporting():  # NumPy is ten times faster
        flat = torch.from_numpy(planes.detach().numpy().argmax(2))
    else:
        flat = planes.argmax(2)
    scores = planes.gather(2, flat[..., None])[..., 0]
    return torch.stack([flat % width, flat // width], dim=2).to(heatmaps.dtype), scores


@dataclass(frozen=True)
class Blur:
    """Blur of heatmaps before the refinement, named as in params.yaml's `codec`.

    blur_border: "zero" pads with zeros and restores each map's maximum, as in Sapiens and mmpose
    1.x (refine_keypoints_dark_udp); "mirror" mirrors the edges, as in ViTPose (mmpose 0.x,
    post_dark_udp).
    """

    blur_kernel_size: int
    blur_border: str = "zero"


def dark_decode(heatmaps: Tensor, blur: Blur) -> tuple[Tensor, Tensor]:
    """Sub-cell peak (B, K, 2) and peak value (B, K) of heatmaps (B, K, H, W), in float32.

    Blur, log, one Newton step from the argmax; only the cells around the peak are blurred. Where
    the score is <= 0 the official code divides 0 by 0; here the argmax is returned without
    refinement.
    """
    heatmaps = heatmaps.float()
    peaks, scores = argmax_decode(heatmaps)
    around = _blurred_around_peaks(heatmaps, peaks, blur)
    if blur.blur_border == "zero":
        around = around * _gain(heatmaps, scores, around, blur.blur_kernel_size)
    log_maps = _repeat_border(around, peaks, heatmaps.shape).clamp(*LOG_RANGE).log()
    step = _newton_step(log_maps)
    return torch.where(scores[..., None] > 0, peaks - step, peaks), scores


def _blurred_around_peaks(heatmaps: Tensor, peaks: Tensor, blur: Blur) -> Tensor:
    """Blurred maps (B, K, 3, 3) at the peak cells and their neighbours."""
    size = blur.blur_kernel_size
    kernel = blur_kernel(size).to(heatmaps.device)
    reach = torch.arange(-(size // 2) - 1, size // 2 + 2, device=heatmaps.device)
    rows, columns = (peaks[..., axis].long()[..., None] + reach for axis in (1, 0))
    patches = _patches(heatmaps, rows, columns, blur.blur_border)
    return _blur_last_axis(_blur_last_axis(patches, kernel).mT, kernel).mT


def _blur_last_axis(patches: Tensor, kernel: Tensor) -> Tensor:
    """Patches (..., n) blurred along the last axis to (..., n + 1 - size).

    Summed from the middle outwards, as in OpenCV: where the logarithm is flat, last bits matter.
    """
    size, middle = len(kernel), len(kernel) // 2
    count = patches.shape[-1] + 1 - size
    total = patches[..., middle : middle + count] * kernel[middle]
    for i in range(1, middle + 1):
        left, right = (patches[..., middle + d : middle + d + count] for d in (-i, i))
        total = total + (left + right) * kernel[middle + i]
    return total


def _patches(heatmaps: Tensor, rows: Tensor, columns: Tensor, border: str) -> Tensor:
    """Cells at rows (B, K, n) x columns (B, K, n); outside the map zero or mirrored."""
    height, width = heatmaps.shape[2:]
    if border == "mirror":
        margin = 2 * rows.shape[2]
        rows = _mirrored_indices(height, margin).to(rows.device)[rows + margin]
        columns = _mirrored_indices(width, margin).to(columns.device)[columns + margin]
    inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    index = (
        rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    )
    cells = heatmaps.flatten(2).gather(2, index.flatten(2)).view(index.shape)
    return cells * (inside_y[..., :, None] & inside_x[..., None, :])


def _gain(heatmaps: Tensor, scores: Tensor, around: Tensor, kernel_size: int) -> Tensor:
    """(B, K, 1, 1) factor that restores the maximum of the maps before the blur.

    It is at least 1 and leaves no value above the peak. A factor does not move the peak of a
    logarithm, so it is computed only where the logarithm is clipped, since it needs a blur of the
    whole map; an exported program, whose shapes cannot depend on values, blurs all maps. If the
    blurred maximum is negative, so is the factor, as in the official code.
    """
    clipped = (around.amin((2, 3)) < LOG_RANGE[0]) | (scores > LOG_RANGE[1])
    gain = torch.ones_like(scores)
    if torch.compiler.is_exporting():
        gain = torch.where(clipped, scores / _blurred_maxima(heatmaps, kernel_size), gain)
    elif clipped.any():
        gain[clipped] = scores[clipped] / _blurred_maxima(heatmaps[clipped][None], kernel_size)[0]
    return gain[..., None, None]


def _blurred_maxima(heatmaps: Tensor, kernel_size: int) -> Tensor:
    """(B, K) largest values of the heatmaps (B, K, H, W), blurred with zeros around them."""
    padded = F.pad(heatmaps, [kernel_size // 2] * 4)
    return _blur_padded(padded, kernel_size).amax((2, 3))


def _repeat_border(around: Tensor, peaks: Tensor, shape: torch.Size) -> Tensor:
    """around (B, K, 3, 3) with cells outside the map replaced by the nearest border cells."""
    near = torch.arange(-1, 2, device=peaks.device)
    places = [
        (peaks[..., axis].long()[..., None] + near).clamp(0, shape[dim] - 1)
        - peaks[..., axis].long()[..., None]
        + 1
        for axis, dim in ((1, 2), (0, 3))
    ]
    rows = around.gather(2, places[0][..., :, None].expand_as(around))
    return rows.gather(3, places[1][..., None, :].expand_as(around))


def blur_mirrored(maps: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur of maps (B, K, H, W) with edges mirrored as by OpenCV's BORDER_REFLECT_101."""
    rows, columns = (_mirrored_indices(n, kernel_size // 2).to(maps.device) for n in maps.shape[2:])
    return _blur_padded(maps[:, :, rows][..., columns], kernel_size)


def _mirrored_indices(length: int, margin: int) -> Tensor:
    """Indices -margin .. length + margin - 1, mirrored into 0 .. length - 1."""
    indices = range(-margin, length + margin)
    return torch.tensor([cv2.borderInterpolate(i, length, cv2.BORDER_REFLECT_101) for i in indices])


def _blur_padded(padded: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur of padded maps (B, K, H + k - 1, W + k - 1) to (B, K, H, W).

    torch's convolution is not used: its last bits depend on the rest of the batch.
    """
    kernel = blur_kernel(kernel_size).to(padded.device)
    return _blur_last_axis(_blur_last_axis(padded, kernel).mT, kernel).mT


def blur_kernel(size: int) -> Tensor:
    """Gaussian kernel (size,) with OpenCV's automatic sigma.

    sigma is 0.3 * ((size - 1) * 0.5 - 1) + 0.8; for small sizes OpenCV has fixed tables.
    """
    return torch.from_numpy(cv2.getGaussianKernel(size, 0, cv2.CV_32F)[:, 0])


def _newton_step(around: Tensor) -> Tensor:
    """H^-1 g (B, K, 2) at the middle of log maps (B, K, 3, 3).

    Differences in float32, the inverse in float64, as in the official code.
    """

    def at(dx: int, dy: int) -> Tensor:
        return around[..., 1 + dy, 1 + dx]

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
