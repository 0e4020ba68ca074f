"""Colours and holes of a batch on the device that trains: a loader's cores are the scarcer ones.

The same law as augment.recolour, of draws made in the loader; conversions to HSV and back are
OpenCV's for 8 bits (color_hsv.simd.hpp). Three values in 100,000 differ by a grey level, more where
OpenCV's code for the ends of rows rounds what its vector code cuts.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose.data.augment import Colours

TABLES = 4 * 256

# Which of v, v(1-s), v(1-sf), v(1-s(1-f)) is blue, green and red in each sixth of the hue circle.
SECTORS = ((1, 3, 0), (1, 0, 2), (3, 0, 1), (0, 2, 1), (0, 1, 3), (2, 1, 0))


def packed(colours: Colours, hole: tuple[int, int, int, int]) -> NDArray[np.int16]:
    """(1032,) numbers of a sample: four tables, whether in HSV, channel order, hole."""
    tables = (colours.first, colours.saturation, colours.hue, colours.last)
    rest = (colours.in_hsv, *colours.order, *hole)
    return np.concatenate([*tables, rest]).astype(np.int16)


def recolour_batch(images: Tensor, later: Tensor) -> Tensor:
    """images (B, h, w, 3) uint8 BGR after the work of later (B, 1032), see packed."""
    first, saturation, hue, last = later[:, :TABLES].unflatten(1, (4, 256)).unbind(1)
    in_hsv, order, hole = later[:, TABLES], later[:, TABLES + 1 : TABLES + 4], later[:, -4:]
    found = _looked_up(images, first)
    h, s, v = _to_hsv(found)
    turned = _to_bgr(_looked_up(h, hue), _looked_up(s, saturation), v)
    found = torch.where(in_hsv.bool()[:, None, None, None], turned, found)
    found = _looked_up(found, last)
    found = found.gather(3, order.long()[:, None, None, :].expand_as(found))
    return found * ~_inside(hole, images.shape[1:3])[..., None]


def _looked_up(values: Tensor, tables: Tensor) -> Tensor:
    """values (B, ...) of 0..255 through tables (B, 256), as uint8."""
    return tables.gather(1, values.flatten(1).long()).view(values.shape).to(torch.uint8)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h in 0..179, s and v in 0..255 of (..., 3) BGR, in OpenCV's fixed-point arithmetic."""
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
    """(..., 3) BGR uint8, cut as OpenCV 5 cuts; hues of 180 and more go round again."""
    sixths = h.float() * (6 / 180)
    sixths = torch.where(sixths >= 6, sixths - 6, sixths)
    sector = sixths.floor()
    f, s, v = sixths - sector, s.float() * (1 / 255), v.float() * (1 / 255)
    parts = torch.stack([v, v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))], dim=-1)
    places = torch.tensor(SECTORS, device=h.device)[sector.long()]
    return (parts.gather(-1, places) * 255).to(torch.uint8)


def _inside(hole: Tensor, hw: torch.Size) -> Tensor:
    """(B, h, w) whether a pixel lies in x1, y1, x2, y2."""
    y = torch.arange(hw[0], device=hole.device)[None, :, None]
    x = torch.arange(hw[1], device=hole.device)[None, None, :]
    x1, y1, x2, y2 = (edge[:, None, None] for edge in hole.unbind(1))
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
