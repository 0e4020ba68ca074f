"""Batched prediction: heatmaps averaged over views and checkpoints, decoded to image pixels.

Test-time augmentation (tta): `none`, the box as it is; `flip`, the mean with the mirrored image's
heatmaps; `multiscale`, the mean of flip over the box at several sizes, in the box's own cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
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
from pose.models.pose_model import normalise

Decoder = Callable[[Tensor], tuple[Tensor, Tensor]]  # maps -> cells (B, K, 2), scores (B, K)


@dataclass(frozen=True)
class Predictions:
    """keypoints (N, K, 2) in image pixels, raw peak values (N, K), rows (N,) of the crop table."""

    keypoints: NDArray[np.float64]
    scores: NDArray[np.float64]
    rows: NDArray[np.int64]


PredictionsByView = dict[tuple[str, str], Predictions]  # by (tta, decoder)


class Ensemble(nn.Module):
    """Networks whose maps are averaged, in float32."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images).float() for member in self.members]).mean(0)


def codec_decoders(codec: UdpCodec, blur: Blur) -> dict[str, Decoder]:
    """The codec's decoders by name: `argmax`, and its refinement of the same peak."""
    return {
        "argmax": partial(codec.decode, blur=blur, refine=False),
        codec.refinement: partial(codec.decode, blur=blur, refine=True),
    }


@torch.no_grad()
def predict_batches(
    model: nn.Module,
    codec: UdpCodec,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    amp: str,
    decoders: Mapping[str, Decoder],
    ttas: Sequence[str],
    zooms: Sequence[float] = (),
) -> Iterator[PredictionsByView]:
    """Each batch's predictions by (tta, decoder).

    A batch has `image` (B, h, w, 3) uint8 BGR, `center` and `scale` (B, 2) of its boxes in image
    pixels, `row` (B,), and for multiscale `scaled` (B, S, h, w, 3), the boxes at S sizes, which are
    zooms times as large. Each view is run once, and only if one of ttas needs it.
    """
    for batch in batches:
        with autocast(device, amp):
            maps = predict_views(model, codec, batch, device, ttas, zooms)
        yield {
            (tta, name): _to_image(decode(maps[tta]), codec, batch)
            for tta in ttas
            for name, decode in decoders.items()
        }


def predict_views(
    model: nn.Module,
    codec: UdpCodec,
    batch: dict[str, Any],
    device: torch.device,
    ttas: Sequence[str],
    zooms: Sequence[float] = (),
) -> dict[str, Tensor]:
    """The maps (B, K or 3 K, H, W) of each of ttas, float32."""
    flip = any(tta != "none" for tta in ttas)
    images = normalise(batch["image"].to(device, non_blocking=True))
    plain, flipped = _plain_and_flip(model, codec, images, flip)
    views = {"none": plain, "flip": flipped}
    if "multiscale" in ttas:
        total, count = flipped, torch.ones_like(flipped[0, 0])
        for images, zoom in zip(batch["scaled"].unbind(1), zooms, strict=True):
            images = normalise(images.to(device, non_blocking=True))
            maps, covered = codec.zoom_back(predict_maps(model, codec, images, flip=True), zoom)
            total, count = total + maps, count + covered
        views["multiscale"] = total / count
    return views


def predict_maps(model: nn.Module, codec: UdpCodec, images: Tensor, flip: bool) -> Tensor:
    """The maps of normalised images, float32; with flip, the mean with the mirrored images'."""
    return _plain_and_flip(model, codec, images, flip)[1]


def _plain_and_flip(
    model: nn.Module, codec: UdpCodec, images: Tensor, flip: bool
) -> tuple[Tensor, Tensor]:
    """Maps of normalised images, and their mean with those of the mirrored images if flip."""
    plain = model(images).float()
    if not flip:
        return plain, plain
    return plain, (plain + codec.flip_back(model(images.flip(3)).float())) / 2


def _to_image(
    decoded: tuple[Tensor, Tensor], codec: UdpCodec, batch: dict[str, Any]
) -> Predictions:
    """Decoded cells and scores of a batch, in image pixels."""
    cells, scores = (tensor.cpu().numpy().astype(np.float64) for tensor in decoded)
    center, scale = batch["center"].numpy(), batch["scale"].numpy()
    keypoints = geometry.heatmap_to_image(cells, center, scale, codec.heatmap_size)
    return Predictions(keypoints, scores, batch["row"].numpy())


def concat_predictions(parts: Sequence[Predictions]) -> Predictions:
    """The parts one after the other; at least one."""
    columns = ([getattr(part, field.name) for part in parts] for field in fields(Predictions))
    return Predictions(*(np.concatenate(column) for column in columns))


def empty_predictions(num_keypoints: int) -> Predictions:
    """Predictions of no box."""
    keypoints = np.empty((0, num_keypoints, 2))
    return Predictions(keypoints, keypoints[..., 0], np.empty(0, np.int64))


def gather_predictions(own: PredictionsByView, count: int, batch_size: int) -> PredictionsByView:
    """All processes' predictions of `count` samples, each once and in order, in each process.

    own are those of this process's samples.test_batches.
    """
    world = distributed.world_size()
    parts = distributed.all_gather(own)
    positions = [
        position
        for rank in range(world)
        for batch in test_batches(count, batch_size, rank, world)
        for position in batch
    ]
    order = np.argsort(positions)
    return {
        key: _reorder(concat_predictions([part[key] for part in parts if part]), order)
        for key in parts[0]
    }


def _reorder(predictions: Predictions, order: NDArray[np.intp]) -> Predictions:
    return Predictions(*(getattr(predictions, field.name)[order] for field in fields(Predictions)))
