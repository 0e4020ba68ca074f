"""Pictures of stage 2: what each path sees, what it is held to, and what it says."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose.draw import Image, caption, draw_heatmap, enlarge, grid
from pose.models.vit import PIXEL_MEAN, PIXEL_STD
from pose.ssl.consistency import Consistency
from pose.ssl.hard_views import warp_maps

HEIGHT = 144  # pixels of a picture


@torch.no_grad()
def picture_views(consistency: Consistency, images_u8: Tensor, targets: Tensor, step: int) -> Image:
    """BGR grid, a row a person: easy view and its maps, the target, each path and its maps.

    Maps are shown by their highest keypoint. Of two networks the first one's. In every process.
    """
    student = consistency.students[0]
    scene = consistency.scene(0, images_u8, targets, step)
    target = consistency.target(0, scene)
    turned = warp_maps(scene.everyone[scene.own], scene.theta)
    columns = [
        _captioned(_pictures(scene.everyone[scene.own]), "easy view"),
        _captioned(_under(scene.everyone[scene.own], scene.easy), "teacher"),
        _captioned(_under(turned, target.maps), "target"),
    ]
    for path in consistency.ssl.paths:
        hard = scene.views.along(path, scene.everyone)[scene.own]
        seen = warp_maps(hard, scene.theta)
        maps = consistency.hard_maps(student, hard, scene)
        columns.append(_captioned(_pictures(seen), path))
        columns.append(_captioned(_under(seen, maps), "student"))
    return grid([column[i] for i in range(len(images_u8)) for column in columns], len(columns))


def no_picture(text: str) -> Image:
    """A strip that says why there is none."""
    return caption(np.zeros((8, 320, 3), np.uint8), text)


def _captioned(images: list[Image], text: str) -> list[Image]:
    return [caption(enlarge(image, HEIGHT), text) for image in images]


def _pictures(images: Tensor) -> list[Image]:
    """BGR uint8 of normalised images (B, 3, h, w)."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    levels = (images * std + mean).round().clamp(0, 255).to(torch.uint8)
    return list(levels.flip(1).permute(0, 2, 3, 1).cpu().numpy())


def _under(images: Tensor, maps: Tensor) -> list[Image]:
    """The images under their maps' (B, K, H, W) highest values."""
    heights: NDArray[np.float32] = maps.amax(1).float().cpu().numpy()
    return [draw_heatmap(i, h) for i, h in zip(_pictures(images), heights, strict=True)]
