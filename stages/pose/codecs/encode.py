"""Keypoints as targets of the gaussian or the combined UDP codec, in NumPy.

Apart from the maps, so that build_cache and its helper processes do not import torch. Sources are
those of gaussian.py and combined.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pose.codecs import geometry
from pose.common.params import Codec

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TargetEncoder:
    """A codec, with sizes (w, h); named as in params.yaml's `codec`.

    flip_indices (K,) is the order of the keypoints in a mirrored image, see skeleton.Skeleton. The
    last three have defaults for a pose.json written before they existed.
    """

    type: str  # gaussian: K maps | combined: 3 K maps
    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    sigma: float
    radius_factor: float
    flip_indices: tuple[int, ...]
    interpolation: Literal["linear", "cubic"] = "linear"
    outside: Literal["window", "ignore"] = "window"
    occluded_weight: float = 1.0

    def warp(self, crop: NDArray[np.uint8], affine: Array) -> NDArray[np.uint8]:
        """The input image (h, w, 3) of a crop, see geometry.warp; affine (2, 3): crop -> input."""
        return geometry.warp(crop, affine, self.input_size, self.interpolation)

    def keypoint_weights(self, visibility: Array) -> Array:
        """Loss weights (K,) of COCO's visibility (K,): 0, occluded_weight or 1."""
        return np.where(visibility == 1, self.occluded_weight, np.minimum(visibility, 1.0))

    def encode(self, keypoints_input: Array, keypoint_weights: Array) -> NDArray[np.float32]:
        """(K, 3) targets, centre x, y in cells and loss weight, from input pixels (K, 2).

        With outside = ignore, keypoints outside of the input get weight 0, as in Sapiens2. The
        conversion to cells is in float32, as in the official code, so that the maps agree with its
        maps up to rounding.
        """
        if self.outside == "ignore":
            inside = (keypoints_input >= 0) & (keypoints_input < np.array(self.input_size))
            keypoint_weights = np.where(inside.all(axis=1), keypoint_weights, 0.0)
        step = (np.array(self.input_size) - 1) / (np.array(self.heatmap_size) - 1)
        cells = (keypoints_input.astype(np.float32) / step.astype(np.float32)).astype(np.float64)
        if self.type == "combined":
            return combined_targets(cells, keypoint_weights)
        return gaussian_targets(cells, keypoint_weights, self.heatmap_size, self.sigma)


def build_encoder(codec: Codec, flip_indices: tuple[int, ...]) -> TargetEncoder:
    """The encoder of params.yaml's section `codec`; flip_indices as in TargetEncoder."""
    return TargetEncoder(
        type=codec.type,
        input_size=codec.input_size,
        heatmap_size=codec.heatmap_size,
        sigma=codec.sigma,
        radius_factor=codec.radius_factor,
        flip_indices=flip_indices,
        interpolation=codec.interpolation,
        outside=codec.outside,
        occluded_weight=codec.occluded_weight,
    )


def gaussian_targets(
    keypoints_heatmap: Array,
    keypoint_weights: Array,
    heatmap_wh: tuple[int, int],
    sigma: float,
) -> NDArray[np.float32]:
    """(K, 3) targets: gaussian centre x, y in cells, and the loss weight in [0, 1].

    keypoint_weights (K,) are those of TargetEncoder.keypoint_weights. The weight becomes 0 if the
    3-sigma window is outside the map. A keypoint outside the map whose window overlaps it keeps its
    weight and has a partial gaussian, as in the official code. Where the weight is below 0.5 the
    map is empty and the centre becomes 0, so that NaN coordinates have no effect.
    """
    labelled = keypoint_weights[:, None] >= 0.5
    centers = np.where(labelled, keypoints_heatmap, 0.0)
    nearest, radius = np.trunc(centers + 0.5), 3 * sigma
    first, last = np.trunc(nearest - radius), np.trunc(nearest + radius + 1)
    inside = ((first < np.array(heatmap_wh)) & (last >= 0)).all(1, keepdims=True)
    weights = np.where(labelled & ~inside, 0.0, keypoint_weights[:, None])
    return np.hstack([np.where(inside, centers, 0.0), weights]).astype(np.float32)


def combined_targets(keypoints_heatmap: Array, keypoint_weights: Array) -> NDArray[np.float32]:
    """(K, 3) targets: disc centre x, y in cells, and the loss weight.

    Unlike in the gaussian codec, a keypoint outside the map keeps its weight. A keypoint with a
    weight below 0.5 is unlabelled: its centre becomes 0, so that NaN coordinates have no effect.
    """
    centers = np.where(keypoint_weights[:, None] >= 0.5, keypoints_heatmap, 0.0)
    return np.concatenate([centers, keypoint_weights[:, None]], axis=1).astype(np.float32)
