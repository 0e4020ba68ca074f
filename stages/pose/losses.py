"""Heatmap losses."""

from __future__ import annotations

from torch import Tensor


def keypoint_mse(heatmaps: Tensor, targets: Tensor, keypoint_weights: Tensor) -> Tensor:
    """Mean over all B*K*H*W cells of weighted squared error, in float32.

    heatmaps and targets (B, K, H, W), keypoint_weights (B, K). The denominator counts zero-weight
    keypoints too and the weight is not squared: Sapiens' KeypointMSELoss
    (mmpose/models/losses/heatmap_loss.py).
    """
    squared = (heatmaps.float() - targets.float()) ** 2
    return (squared * keypoint_weights[..., None, None]).mean()
