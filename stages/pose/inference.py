"""Batched prediction: heatmaps with and without the mirrored image, decoded to image pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pose import distributed, geometry
from pose.codec import UdpCodec
from pose.dataset import test_batches
from pose.engine import autocast
from pose.gaussian import Blur
from pose.model import normalise


@dataclass(frozen=True)
class Predictions:
    """keypoints (N, K, 2) in image pixels, raw peak heights (N, K), rows (N,) of the cache."""

    keypoints: NDArray[np.float64]
    scores: NDArray[np.float64]
    rows: NDArray[np.int64]


def predict_maps(model: nn.Module, codec: UdpCodec, images: Tensor, flip: bool) -> Tensor:
    """The codec's maps, float32, of normalised images; with flip, the mean of both views."""
    maps = model(images).float()
    if not flip:
        return maps
    return (maps + codec.flip_back(model(images.flip(3)).float())) / 2


@torch.no_grad()
def predict(
    model: nn.Module,
    codec: UdpCodec,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    amp: str,
    blur: Blur,
) -> dict[tuple[bool, str], Predictions]:
    """Predictions for every (flip, decoder), from one plain and one mirrored forward a batch."""
    parts: dict[tuple[bool, str], list[tuple[NDArray[Any], ...]]] = {}
    for batch in batches:
        images = normalise(batch["image"].to(device, non_blocking=True))
        with autocast(device, amp):
            plain = model(images)
            mirrored = model(images.flip(3))
        plain = plain.float()
        averaged = (plain + codec.flip_back(mirrored.float())) / 2
        for flip, maps in ((False, plain), (True, averaged)):
            for decoder in ("argmax", codec.refinement):
                found = _to_image(maps, codec, decoder, blur, batch)
                parts.setdefault((flip, decoder), []).append(found)
    return {
        key: Predictions(*(np.concatenate(column) for column in zip(*found, strict=True)))
        for key, found in parts.items()
    }


def gather_predictions(
    found: dict[tuple[bool, str], Predictions], count: int, batch_size: int
) -> dict[tuple[bool, str], Predictions]:
    """Everyone's predictions of `count` samples, each once and in order, in all processes.

    found is of this process's dataset.test_batches.
    """
    world = distributed.world_size()
    parts = distributed.gather(found)
    batches = [
        batch for rank in range(world) for batch in test_batches(count, batch_size, rank, world)
    ]
    order = np.argsort(np.concatenate(batches))
    return {key: _joined([part[key] for part in parts if part], order) for key in parts[0]}


def _joined(parts: list[Predictions], order: NDArray[np.intp]) -> Predictions:
    columns = ([getattr(part, field.name) for part in parts] for field in fields(Predictions))
    return Predictions(*(np.concatenate(column)[order] for column in columns))


def _to_image(
    maps: Tensor, codec: UdpCodec, decoder: str, blur: Blur, batch: dict[str, Any]
) -> tuple[NDArray[Any], ...]:
    """Keypoints in image pixels, scores and cache rows of a batch."""
    peaks, scores = codec.decode(maps, blur, refine=decoder != "argmax")
    cells = peaks.cpu().numpy().astype(np.float64)
    center, scale = batch["center"].numpy(), batch["scale"].numpy()
    keypoints = geometry.heatmap_to_image(cells, center, scale, codec.heatmap_size)
    return keypoints, scores.cpu().numpy().astype(np.float64), batch["row"].numpy()
