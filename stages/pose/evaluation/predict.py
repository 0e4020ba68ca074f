"""Batched prediction: maps averaged over test-time views and checkpoints, decoded to image pixels.

Test-time views (tta): `none`, the box as it is; `flip`, the mean with the mirrored image's maps;
`multiscale`, the mean of flip over the box at several sizes, in the box's own cells. Peaks are
decoded as `argmax` and as the codec refines them, from the same maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pose import distributed
from pose.codecs import geometry
from pose.codecs.gaussian import Blur
from pose.codecs.udp import UdpCodec
from pose.data.samples import test_batches
from pose.models.build import autocast
from pose.models.vit import normalise


@dataclass(frozen=True)
class Predictions:
    """keypoints (N, K, 2) in image pixels, raw peak heights (N, K), rows (N,) of the cache."""

    keypoints: NDArray[np.float64]
    scores: NDArray[np.float64]
    rows: NDArray[np.int64]


Found = dict[tuple[Any, str], Predictions]  # by (tta, decoder)


class Ensemble(nn.Module):
    """Networks whose maps are averaged, in float32."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images).float() for member in self.members]).mean(0)


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
) -> Found:
    """Predictions in all batches for every (flip, decoder), flip being False and True."""
    parts = list(predict_each(model, codec, batches, device, amp, blur, ("none", "flip")))
    return {
        (flip, decoder): joined([part[tta, decoder] for part in parts])
        for flip, tta in ((False, "none"), (True, "flip"))
        for decoder in ("argmax", codec.refinement)
    }


@torch.no_grad()
def predict_each(
    model: nn.Module,
    codec: UdpCodec,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    amp: str,
    blur: Blur,
    ttas: Sequence[str],
    zooms: Sequence[float] = (),
) -> Iterator[Found]:
    """Each batch's predictions by (tta, decoder); zooms are those of the batches' `scaled`.

    A view is run once, and only if one of ttas needs it.
    """
    for batch in batches:
        with autocast(device, amp):
            maps = _views(model, codec, batch, device, ttas, zooms)
        yield {
            (tta, decoder): _to_image(maps[tta], codec, decoder, blur, batch)
            for tta in ttas
            for decoder in ("argmax", codec.refinement)
        }


def _views(
    model: nn.Module,
    codec: UdpCodec,
    batch: dict[str, Any],
    device: torch.device,
    ttas: Sequence[str],
    zooms: Sequence[float],
) -> dict[str, Tensor]:
    """The maps of each of ttas (B, K or 3 K, H, W), float32."""
    flip = any(tta != "none" for tta in ttas)
    plain, both = _both(model, codec, batch["image"].to(device, non_blocking=True), flip)
    found = {"none": plain, "flip": both}
    if "multiscale" in ttas:
        total, count = both, torch.ones_like(both[0, 0])
        for images, zoom in zip(batch["scaled"].unbind(1), zooms, strict=True):
            _, maps = _both(model, codec, images.to(device, non_blocking=True), True)
            maps, covered = codec.zoom_back(maps, zoom)
            total, count = total + maps, count + covered
        found["multiscale"] = total / count
    return found


def _both(model: nn.Module, codec: UdpCodec, images: Tensor, flip: bool) -> tuple[Tensor, Tensor]:
    """Maps of uint8 images as they are, and, with flip, averaged with those of their mirror."""
    normalised = normalise(images)
    plain = model(normalised).float()
    if not flip:
        return plain, plain
    return plain, (plain + codec.flip_back(model(normalised.flip(3)).float())) / 2


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The parts, one behind the other; at least one."""
    columns = ([getattr(part, field.name) for part in parts] for field in fields(Predictions))
    return Predictions(*(np.concatenate(column) for column in columns))


def nobody(num_keypoints: int) -> Predictions:
    """Predictions of no sample."""
    keypoints = np.empty((0, num_keypoints, 2))
    return Predictions(keypoints, keypoints[..., 0], np.empty(0, np.int64))


def gather_predictions(found: Found, count: int, batch_size: int) -> Found:
    """Everyone's predictions of `count` samples, each once and in order, in all processes.

    found is of this process's dataset.test_batches.
    """
    world = distributed.world_size()
    parts = distributed.gather(found)
    places = [
        place
        for rank in range(world)
        for batch in test_batches(count, batch_size, rank, world)
        for place in batch
    ]
    order = np.argsort(places)
    return {key: _ordered(joined([part[key] for part in parts if part]), order) for key in parts[0]}


def _ordered(found: Predictions, order: NDArray[np.intp]) -> Predictions:
    return Predictions(*(getattr(found, field.name)[order] for field in fields(Predictions)))


def _to_image(
    maps: Tensor, codec: UdpCodec, decoder: str, blur: Blur, batch: dict[str, Any]
) -> Predictions:
    """Keypoints in image pixels, scores and cache rows of a batch."""
    peaks, scores = codec.decode(maps, blur, refine=decoder != "argmax")
    cells = peaks.cpu().numpy().astype(np.float64)
    center, scale = batch["center"].numpy(), batch["scale"].numpy()
    keypoints = geometry.heatmap_to_image(cells, center, scale, codec.heatmap_size)
    return Predictions(keypoints, scores.cpu().numpy().astype(np.float64), batch["row"].numpy())
