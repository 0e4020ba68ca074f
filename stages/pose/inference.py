"""Batched prediction: heatmaps with and without the mirrored image, decoded to image pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose import codec, geometry
from pose.engine import autocast
from pose.model import PoseModel, normalise
from pose.skeleton import FLIP_INDICES

DECODERS = ("argmax", "dark")


@dataclass(frozen=True)
class Predictions:
    """keypoints (N, K, 2) in image pixels, raw peak heights (N, K), rows (N,) of the cache."""

    keypoints: NDArray[np.float64]
    scores: NDArray[np.float64]
    rows: NDArray[np.int64]


def flip_back(heatmaps: Tensor) -> Tensor:
    """Heatmaps of a mirrored image, mirrored back, left and right channels exchanged.

    No one-cell shift: UDP is aligned (Sapiens' shift_heatmap is False).
    """
    return heatmaps.flip(3)[:, list(FLIP_INDICES)]


def predict_heatmaps(model: PoseModel, images: Tensor, flip: bool) -> Tensor:
    """Heatmaps (B, K, H, W) float32 of normalised images; with flip, the mean of both views."""
    heatmaps = model(images).float()
    if not flip:
        return heatmaps
    return (heatmaps + flip_back(model(images.flip(3)).float())) / 2


@torch.no_grad()
def predict(
    model: PoseModel,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    amp: str,
    blur_kernel_size: int,
) -> dict[tuple[bool, str], Predictions]:
    """Predictions for every (flip, decoder), from one plain and one mirrored forward a batch."""
    parts: dict[tuple[bool, str], list[tuple[NDArray[Any], ...]]] = {}
    for batch in batches:
        images = normalise(batch["image"].to(device))
        with autocast(device, amp):
            plain = model(images)
            mirrored = model(images.flip(3))
        plain = plain.float()
        averaged = (plain + flip_back(mirrored.float())) / 2
        for flip, heatmaps in ((False, plain), (True, averaged)):
            for decoder in DECODERS:
                found = _to_image(heatmaps, decoder, blur_kernel_size, batch)
                parts.setdefault((flip, decoder), []).append(found)
    return {
        key: Predictions(*(np.concatenate(column) for column in zip(*found, strict=True)))
        for key, found in parts.items()
    }


def _to_image(
    heatmaps: Tensor, decoder: str, blur_kernel_size: int, batch: dict[str, Any]
) -> tuple[NDArray[Any], ...]:
    """Keypoints in image pixels, scores and cache rows of a batch."""
    if decoder == "dark":
        peaks, scores = codec.dark_decode(heatmaps, blur_kernel_size)
    else:
        peaks, scores = codec.argmax_decode(heatmaps)
    cells = peaks.cpu().numpy().astype(np.float64)
    center, scale = batch["center"].numpy(), batch["scale"].numpy()
    heatmap_wh = (heatmaps.shape[3], heatmaps.shape[2])
    keypoints = geometry.heatmap_to_image(cells, center, scale, heatmap_wh)
    return keypoints, scores.cpu().numpy().astype(np.float64), batch["row"].numpy()
