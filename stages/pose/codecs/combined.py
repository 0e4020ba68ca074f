"""UDP combined codec: a disc around each keypoint and the offsets to it, batched in torch.

Source: mmpose/codecs/udp_heatmap.py and utils/offset_heatmap.py ('combined') of the Sapiens fork.
There are three maps per keypoint: disc, x offset, y offset. Offsets are in units of the disc's
radius and cover the whole map. ViTPose's older code has them only inside the disc; the loss uses
only those.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pose.codecs.gaussian import argmax_decode, blur_mirrored


def render_maps(targets: Tensor, heatmap_wh: tuple[int, int], radius: float) -> Tensor:
    """Maps (B, 3 K, H, W) from targets (B, K, 3); radius in cells. Unlabelled keypoints: zeros."""
    width, height = heatmap_wh
    columns = torch.arange(width, device=targets.device, dtype=targets.dtype)
    rows = torch.arange(height, device=targets.device, dtype=targets.dtype)
    dx = ((targets[..., 0:1] - columns) / radius)[..., None, :].expand(-1, -1, height, -1)
    dy = ((targets[..., 1:2] - rows) / radius)[..., :, None].expand(-1, -1, -1, width)
    disc = (dx**2 + dy**2 <= 1).to(targets.dtype)
    labelled = (targets[..., 2] >= 0.5)[..., None, None, None]
    return (torch.stack([disc, dx, dy], dim=2) * labelled).flatten(1, 2)


def decode_maps(
    maps: Tensor, radius: float, blur_kernel_size: int, refine: bool
) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in cells and scores (B, K) of maps (B, 3 K, H, W), in float32.

    The argmax of the blurred disc map and, with refine, plus the offsets at that cell. The blur is
    2 * blur_kernel_size + 1 cells wide, with mirrored edges. The score is the blurred peak value;
    where it is <= 0 (undefined in the official code) the peak is not refined.
    """
    discs, dx, dy = maps.float().unflatten(1, (-1, 3)).unbind(2)
    peaks, scores = argmax_decode(blur_mirrored(discs, 2 * blur_kernel_size + 1))
    if not refine:
        return peaks, scores
    index = (peaks[..., 1] * maps.shape[3] + peaks[..., 0]).long()[..., None]
    offsets = [plane.flatten(2).gather(2, index)[..., 0] for plane in (dx, dy)]
    refined = peaks + torch.stack(offsets, dim=2) * radius
    return torch.where(scores[..., None] > 0, refined, peaks), scores
