"""Pseudo-labels of unlabelled persons: the easy view's map, or an ensemble with the hard paths.

The ensemble keeps what the reports wanted (agreement of views, sharpening, a threshold on
confidence, KL), in a form that learns: their softmax over all cells is never confident, so their
loss is 0 (docs/fidelity.md). Here confidence is the ensembled peak's height, sharpening a power
whose narrowing a blur gives back, and the peak is normalised, so that hard views, which see less,
cannot fade the maps away.
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

FLOOR = 1e-4  # peaks below it are nothing to normalise by


@dataclass(frozen=True)
class Target:
    """What every path is drawn to: maps (B, K, H, W), weights and confidence (B, K); no graph."""

    maps: Tensor
    weights: Tensor
    confidence: Tensor


@torch.no_grad()
def easy_target(easy: Tensor, weights: Tensor) -> Target:
    """The warped easy map as it is; its peak is its confidence."""
    return Target(easy, weights, easy.amax((2, 3)))


@torch.no_grad()
def ensemble_target(
    easy: Tensor, hard_mean: Tensor, inside: Tensor, ssl: Ssl, sigma: float
) -> Target:
    """From the warped easy map and the mean of the paths' maps (B, K, H, W), in one frame.

    inside (B, K): the keypoint lies in that frame; sigma, in cells, is that of the labels. Above
    confidence_thr a keypoint weighs as much as its confidence. Where the paths find nothing at the
    easy view's peak, that is teacher_weight times the peak: a higher threshold demands that they
    agree, a lower one also teaches what they could not see.
    """
    share = ssl.teacher_weight
    both = (share * easy.float() + (1 - share) * hard_mean.float()).clamp(0, 1)
    confidence = both.amax((2, 3))
    weights = confidence * (confidence > ssl.confidence_thr) * inside
    return Target(sharpened(both, ssl.temperature, sigma), weights, confidence)


def sharpened(maps: Tensor, temperature: float, sigma: float) -> Tensor:
    """maps (B, K, H, W) >= 0 to the power of 1 / temperature, peaks at 1, as wide as before.

    A power narrows a gaussian of `sigma` cells to sigma sqrt(T); a blur of sigma sqrt(1 - T) widens
    it back. Mirrored edges keep a gaussian whose centre lies on one. Empty maps stay empty.
    """
    raised = (maps / maps.amax((2, 3), keepdim=True).clamp(min=FLOOR)) ** (1 / temperature)
    width = sigma * math.sqrt(1 - temperature)
    if width > 0:
        reach = min(math.ceil(3 * width), min(maps.shape[2:]) - 1)
        raised = TF.gaussian_blur(raised, [2 * reach + 1] * 2, [width] * 2)
    return raised / raised.amax((2, 3), keepdim=True).clamp(min=FLOOR)


def path_loss(heatmaps: Tensor, target: Target, ssl: Ssl) -> Tensor:
    """Weighted squared error of a path's maps (B, K, H, W), and softmax-KL if it has a weight.

    The same mean as the labelled loss's: over all B*K*H*W cells, without the 0.5 of the paper.
    """
    loss = keypoint_mse(heatmaps, target.maps, target.weights)
    if ssl.kl_weight == 0:
        return loss
    return loss + ssl.kl_weight * softmax_kl(heatmaps, target, ssl.kl_temperature)


def softmax_kl(heatmaps: Tensor, target: Target, temperature: float) -> Tensor:
    """Weighted mean over B*K of KL(target || heatmaps), both softmaxed over cells, in float32."""
    found = F.log_softmax(heatmaps.float().flatten(2) / temperature, 2)
    wanted = F.log_softmax(target.maps.float().flatten(2) / temperature, 2)
    divergence = F.kl_div(found, wanted, reduction="none", log_target=True).sum(2)
    return (divergence * target.weights).mean()
