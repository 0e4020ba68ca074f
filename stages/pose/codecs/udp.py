"""Encode keypoints as maps and decode maps to keypoints, with the gaussian or combined UDP codec.

Names say whether coordinates are input pixels or heatmap cells, and each conversion is exact. The
official code multiplies by Wi / (Wi - 1) in between, which cancels when it maps to the image: see
docs/coordinates.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

<<<<<<< HEAD
from pose.codecs import gaussian, geometry
from pose.codecs.combined import decode_maps, encode_targets, render_maps
=======
from pose.codecs import gaussian
from pose.codecs.combined import decode_maps, render_maps
from pose.codecs.encode import TargetEncoder, build_encoder
>>>>>>> work-e
from pose.common.params import Codec


@dataclass(frozen=True)
<<<<<<< HEAD
class UdpCodec:
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
=======
class UdpCodec(TargetEncoder):
    """A codec that also renders and decodes maps."""
>>>>>>> work-e

    @property
    def refinement(self) -> str:
        """Name of the sub-cell refinement."""
        return "offset" if self.type == "combined" else "dark"

    @property
    def radius(self) -> float:
        """Radius of the combined disc in cells."""
        return self.radius_factor * max(self.heatmap_size)

<<<<<<< HEAD
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
            return encode_targets(cells, keypoint_weights)
        return gaussian.encode_targets(cells, keypoint_weights, self.heatmap_size, self.sigma)

=======
>>>>>>> work-e
    def render(self, targets: Tensor) -> Tensor:
        """Maps (B, K or 3 K, H, W) from targets (B, K, 3), on the targets' device."""
        if self.type == "combined":
            return render_maps(targets, self.heatmap_size, self.radius)
        return gaussian.render_heatmaps(targets, self.heatmap_size, self.sigma)

    def decode(self, maps: Tensor, blur: gaussian.Blur, refine: bool) -> tuple[Tensor, Tensor]:
        """Keypoints (B, K, 2) in cells and scores (B, K), on the maps' device."""
        if self.type == "combined":
            return decode_maps(maps, self.radius, blur.blur_kernel_size, refine)
        if refine:
            return gaussian.dark_decode(maps, blur)
        return gaussian.argmax_decode(maps)

    def heatmaps(self, maps: Tensor) -> Tensor:
        """The maps (B, K, H, W) whose peaks are the keypoints, without combined offsets."""
        return maps[:, ::3] if self.type == "combined" else maps

    def flip_back(self, maps: Tensor) -> Tensor:
        """Mirror the maps of a mirrored image back: swap flip pairs, negate x offsets.

        There is no shift by a cell: UDP is aligned (shift_heatmap is False in Sapiens).
        """
        planes: Tensor = maps.flip(3).unflatten(1, (len(self.flip_indices), -1))
        planes = planes[:, list(self.flip_indices)]
        if self.type == "combined":
            planes = planes * planes.new_tensor([1.0, -1.0, 1.0])[:, None, None]
        return planes.flatten(1, 2)

    def zoom_back(self, maps: Tensor, zoom: float) -> tuple[Tensor, Tensor]:
        """Resample maps of a box `zoom` times as large, with the same centre, to cells of the box.

        Also returns a mask (H, W): 1 where the zoomed box has values, else 0. Corners are pixel
        centres; combined offsets are lengths and are multiplied by zoom.
        """
        maps = maps.float()
        inverse = maps.new_tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]])
        with torch.autocast(maps.device.type, enabled=False):  # coordinates need float32
            grid = F.affine_grid(inverse[None], [1, 1, *maps.shape[2:]], align_corners=True)
            resampled = F.grid_sample(maps, grid.expand(len(maps), -1, -1, -1), align_corners=True)
        if self.type == "combined":
            planes = resampled.unflatten(1, (len(self.flip_indices), -1))
            resampled = (planes * planes.new_tensor([1.0, zoom, zoom])[:, None, None]).flatten(1, 2)
        covered = (grid[0].abs() <= 1 + 1e-6).all(dim=2).to(maps.dtype)
        return resampled * covered, covered


def build_codec(codec: Codec, flip_indices: tuple[int, ...]) -> UdpCodec:
    """The codec of params.yaml's section `codec`; flip_indices as in UdpCodec."""
<<<<<<< HEAD
    return UdpCodec(
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
=======
    return UdpCodec(**vars(build_encoder(codec, flip_indices)))
>>>>>>> work-e
