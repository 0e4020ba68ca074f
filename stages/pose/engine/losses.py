"""Heatmap losses; LOSSES maps a codec type to its loss."""

from __future__ import annotations

import torch
from torch import Tensor


def keypoint_mse(heatmaps: Tensor, targets: Tensor, keypoint_weights: Tensor) -> Tensor:
    """Mean over all B*K*H*W cells of weighted squared error, in float32.

    heatmaps and targets (B, K, H, W), keypoint_weights (B, K). The denominator counts zero-weight
    keypoints too and the weight is not squared: Sapiens' KeypointMSELoss
    (mmpose/models/losses/heatmap_loss.py).
    """
    squared = (heatmaps.float() - targets.float()) ** 2
    return (squared * keypoint_weights[..., None, None]).mean()


def combined_mse(maps: Tensor, targets: Tensor, keypoint_weights: Tensor) -> Tensor:
    """Half the mean squared errors of disc and of both offsets, over all cells, in float32.

    maps and targets (B, 3 K, H, W), keypoint_weights (B, K). Offsets count only inside the disc:
    they are multiplied by the weighted disc target. mmpose's CombinedTargetMSELoss
    (mmpose/models/losses/heatmap_loss.py), whose weights are inside the square.
    """
    found, wanted = (planes.float().unflatten(1, (-1, 3)) for planes in (maps, targets))
    weights = keypoint_weights[..., None, None]
    disc = wanted[:, :, 0] * weights
    factors = torch.stack([weights.expand_as(disc), disc, disc], dim=2)
    loss: Tensor = 0.5 * 3 * ((factors * (found - wanted)) ** 2).mean()
    return loss


LOSSES = {"gaussian": keypoint_mse, "combined": combined_mse}
