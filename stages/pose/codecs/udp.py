"""Encode keypoints as maps and decode maps to keypoints, with the gaussian or combined UDP codec.

Names say whether coordinates are input pixels or heatmap cells, and each conversion is exact. The
official code multiplies by Wi / (Wi - 1) in between, which cancels when it maps to the image: see
docs/coordinates.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pose.codecs import gaussian
from pose.codecs.combined import decode_maps, render_maps
from pose.codecs.encode import TargetEncoder, build_encoder
from pose.common.params import Codec


@dataclass(frozen=True)
class UdpCodec(TargetEncoder):
    """A codec that also renders and decodes maps."""

    @property
    def refinement(self) -> str:
        """Name of the sub-cell refinement."""
        return "offset" if self.type == "combined" else "dark"

    @property
    def radius(self) -> float:
        """Radius of the combined disc in cells."""
        return self.radius_factor * max(self.heatmap_size)

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
    return UdpCodec(**vars(build_encoder(codec, flip_indices)))
