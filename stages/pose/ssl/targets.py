"""Targets of unlabelled people: the teacher's heatmaps, or their ensemble with the paths'.

The ensemble has the parts that the reports of docs/fidelity.md describe (agreement of views,
sharpening, a threshold on confidence, KL) in a form that trains: their softmax over all cells is
never confident, so that their loss is 0. Here confidence is the peak value of the ensemble,
sharpening is a power followed by a blur that restores the width, and the peak is normalised to 1,
so that the lower peaks of strongly augmented views do not make the heatmaps fade.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from pose.common.params import Ssl
from pose.engine.losses import keypoint_mse

EPS = 1e-4  # lower peaks are not normalised to 1


@dataclass(frozen=True)
class Target:
    """Target of every path: maps (B, K, H, W), weights and confidence (B, K), without gradients."""

    maps: Tensor
    weights: Tensor
    confidence: Tensor


@torch.no_grad()
def teacher_target(teacher_maps: Tensor, weights: Tensor) -> Target:
    """The teacher's warped heatmaps (B, K, H, W), unchanged; their peak value is the confidence."""
    return Target(teacher_maps, weights, teacher_maps.amax((2, 3)))


@torch.no_grad()
def ensemble_target(
    teacher_maps: Tensor, paths_mean: Tensor, inside: Tensor, ssl: Ssl, sigma: float
) -> Target:
    """From the teacher's warped heatmaps and the mean of the paths' heatmaps, both (B, K, H, W).

    inside (B, K) is whether the keypoint is inside the warped image; sigma, in cells, is that of
    the labels. The weight of a keypoint is its confidence above ssl.confidence_thr, else 0. Where
    the paths have no response at the teacher's peak, confidence is teacher_weight times that peak:
    a higher threshold requires the paths to agree, a lower one also trains on keypoints that they
    do not find.
    """
    share = ssl.teacher_weight
    ensemble = (share * teacher_maps.float() + (1 - share) * paths_mean.float()).clamp(0, 1)
    confidence = ensemble.amax((2, 3))
    weights = confidence * (confidence > ssl.confidence_thr) * inside
    return Target(sharpen(ensemble, ssl.temperature, sigma), weights, confidence)


def sharpen(maps: Tensor, temperature: float, sigma: float) -> Tensor:
    """Heatmaps (B, K, H, W) >= 0 to the power of 1 / temperature, with peaks of 1.

    The power narrows a gaussian of `sigma` cells to sigma sqrt(T); a blur of sigma sqrt(1 - T)
    restores its width. The blur mirrors at the edges, so that a gaussian centred on an edge is
    unchanged. Empty maps stay empty.
    """
    raised = (maps / maps.amax((2, 3), keepdim=True).clamp(min=EPS)) ** (1 / temperature)
    blur_sigma = sigma * math.sqrt(1 - temperature)
    if blur_sigma > 0:
        radius = min(math.ceil(3 * blur_sigma), min(maps.shape[2:]) - 1)
        raised = TF.gaussian_blur(raised, [2 * radius + 1] * 2, [blur_sigma] * 2)
    return raised / raised.amax((2, 3), keepdim=True).clamp(min=EPS)


def path_loss(heatmaps: Tensor, target: Target, ssl: Ssl) -> Tensor:
    """Weighted squared error of a path's heatmaps (B, K, H, W), plus kl_weight times softmax_kl.

    The mean is over all B*K*H*W cells as in the labelled loss, without the paper's factor of 0.5.
    """
    loss = keypoint_mse(heatmaps, target.maps, target.weights)
    if ssl.kl_weight == 0:
        return loss
    return loss + ssl.kl_weight * softmax_kl(heatmaps, target, ssl.kl_temperature)


def softmax_kl(heatmaps: Tensor, target: Target, temperature: float) -> Tensor:
    """Weighted mean over B*K of KL(target || heatmaps), after a softmax over cells, in float32."""
    log_prob = F.log_softmax(heatmaps.float().flatten(2) / temperature, 2)
    target_log_prob = F.log_softmax(target.maps.float().flatten(2) / temperature, 2)
    divergence = F.kl_div(log_prob, target_log_prob, reduction="none", log_target=True).sum(2)
    return (divergence * target.weights).mean()
