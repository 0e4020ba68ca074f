"""Colour jitter and coarse dropout of a batch on the training device, which relieves the loader.

The same as augment.apply_colour_jitter and fill_hole_, with parameters that the loader drew. The
conversions to HSV and back follow OpenCV's 8-bit arithmetic (color_hsv.simd.hpp). Three values in
100,000 differ by one grey level; more do where OpenCV's code for row ends rounds values that its
vector code truncates.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose.data.augment import ColourJitter

TABLES = 4 * 256  # numbers in the four lookup tables of a sample

# Which of v, v(1-s), v(1-sf), v(1-s(1-f)) is blue, green and red in each sixth of the hue circle.
SECTORS = ((1, 3, 0), (1, 0, 2), (3, 0, 1), (0, 2, 1), (0, 1, 3), (2, 1, 0))


def pack(jitter: ColourJitter, hole: tuple[int, int, int, int]) -> NDArray[np.int16]:
    """Parameters of a sample as (1032,) numbers: four tables, use_hsv, channel order, hole."""
    tables = (jitter.before, jitter.saturation, jitter.hue, jitter.after)
    rest = (jitter.use_hsv, *jitter.channels, *hole)
    return np.concatenate([*tables, rest]).astype(np.int16)


def augment_batch(images: Tensor, parameters: Tensor) -> Tensor:
    """images (B, h, w, 3) uint8 BGR after jitter and dropout by parameters (B, 1032), see pack."""
    before, saturation, hue, after = parameters[:, :TABLES].unflatten(1, (4, 256)).unbind(1)
    use_hsv, channels = parameters[:, TABLES], parameters[:, TABLES + 1 : TABLES + 4]
    images = _lookup(images, before)
    h, s, v = _to_hsv(images)
    jittered = _to_bgr(_lookup(h, hue), _lookup(s, saturation), v)
    images = torch.where(use_hsv.bool()[:, None, None, None], jittered, images)
    images = _lookup(images, after)
    images = images.gather(3, channels.long()[:, None, None, :].expand_as(images))
    return images * ~_hole_mask(parameters[:, -4:], images.shape[1:3])[..., None]


def _lookup(values: Tensor, tables: Tensor) -> Tensor:
    """values (B, ...) of 0..255 through tables (B, 256), as uint8."""
    return tables.gather(1, values.flatten(1).long()).view(values.shape).to(torch.uint8)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h (0..179), s and v (0..255) of BGR (..., 3), in OpenCV's fixed-point arithmetic."""
    blue, green, red = images.int().unbind(-1)
    v = torch.maximum(torch.maximum(blue, green), red)
    spread = v - torch.minimum(torch.minimum(blue, green), red)
    steps = torch.arange(256, device=images.device, dtype=torch.float64)
    by_v = torch.round((255 << 12) / steps).nan_to_num(posinf=0).int()
    by_spread = torch.round((180 << 12) / (6 * steps)).nan_to_num(posinf=0).int()
    s = (spread * by_v[v] + (1 << 11)) >> 12
    h = torch.where(v == green, blue - red + 2 * spread, red - green + 4 * spread)
    h = torch.where(v == red, green - blue, h)
    h = (h * by_spread[spread] + (1 << 11)) >> 12
    return torch.where(h < 0, h + 180, h), s, v


def _to_bgr(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """BGR (..., 3) uint8, truncated as in OpenCV 5; hues of 180 and more wrap around."""
    sixths = h.float() * (6 / 180)
    sixths = torch.where(sixths >= 6, sixths - 6, sixths)
    sector = sixths.floor()
    f, s, v = sixths - sector, s.float() * (1 / 255), v.float() * (1 / 255)
    parts = torch.stack([v, v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))], dim=-1)
    places = torch.tensor(SECTORS, device=h.device)[sector.long()]
    return (parts.gather(-1, places) * 255).to(torch.uint8)


def _hole_mask(hole: Tensor, hw: torch.Size) -> Tensor:
    """(B, h, w) whether a pixel is in its sample's hole (B, 4: x1, y1, x2, y2)."""
    y = torch.arange(hw[0], device=hole.device)[None, :, None]
    x = torch.arange(hw[1], device=hole.device)[None, None, :]
    x1, y1, x2, y2 = (edge[:, None, None] for edge in hole.unbind(1))
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
