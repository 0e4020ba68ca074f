"""Pictures of stage 2: the images of each path, their target, and the student's heatmaps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pose.draw import Image, caption, draw_heatmap, enlarge, grid
from pose.models.pose_model import PIXEL_MEAN, PIXEL_STD
from pose.ssl.consistency import Consistency
from pose.ssl.hard_views import warp_maps

HEIGHT = 144  # pixels per image


@torch.no_grad()
def picture_views(consistency: Consistency, images_u8: Tensor, targets: Tensor, step: int) -> Image:
    """BGR grid, one row per person: weak view, teacher's heatmaps, target, and each path.

    Heatmaps are shown as the maximum over keypoints. With two networks, they are those of the first
    one. All processes must call it.
    """
    student = consistency.students[0]
    batch = consistency.draw_views(0, images_u8, targets, step)
    target = consistency.target(0, batch)
    images = batch.all_images[batch.local]
    columns = [
        _captioned(_to_bgr(images), "easy view"),
        _captioned(_overlay(images, batch.teacher_maps), "teacher"),
        _captioned(_overlay(warp_maps(images, batch.theta), target.maps), "target"),
    ]
    for path in consistency.ssl.paths:
        augmented = batch.views.augment(path, batch.all_images)[batch.local]
        warped = warp_maps(augmented, batch.theta)
        maps = consistency.student_maps(student, augmented, batch)
        columns.append(_captioned(_to_bgr(warped), path))
        columns.append(_captioned(_overlay(warped, maps), "student"))
    return grid([column[i] for i in range(len(images_u8)) for column in columns], len(columns))


def _captioned(images: list[Image], text: str) -> list[Image]:
    return [caption(enlarge(image, HEIGHT), text) for image in images]


def _to_bgr(images: Tensor) -> list[Image]:
    """BGR uint8 images of normalised RGB images (B, 3, h, w)."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    levels = (images * std + mean).round().clamp(0, 255).to(torch.uint8)
    return list(levels.flip(1).permute(0, 2, 3, 1).cpu().numpy())


def _overlay(images: Tensor, maps: Tensor) -> list[Image]:
    """The images, overlaid with the maximum over keypoints of maps (B, K, H, W)."""
    maxima: NDArray[np.float32] = maps.amax(1).float().cpu().numpy()
    return [draw_heatmap(i, m) for i, m in zip(_to_bgr(images), maxima, strict=True)]
