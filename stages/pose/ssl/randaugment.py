"""RandAugment's photometric operations on network inputs, drawn from a NumPy generator.

Operations and their strengths are torchvision's (transforms.v2.functional). Its RandAugment class
takes no generator, and it has geometric operations, which would also have to move the keypoints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pose.models.pose_model import PIXEL_MEAN, PIXEL_STD

MAX_MAGNITUDE = 30  # an operation has its full strength at this magnitude
Operation = Callable[[Tensor, float], Tensor]  # (image, signed strength -1..1)
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, s: image,
    "brightness": lambda image, s: TF.adjust_brightness(image, 1 + 0.9 * s),
    "saturation": lambda image, s: TF.adjust_saturation(image, 1 + 0.9 * s),
    "contrast": lambda image, s: TF.adjust_contrast(image, 1 + 0.9 * s),
    "sharpness": lambda image, s: TF.adjust_sharpness(image, 1 + 0.9 * s),
    "posterize": lambda image, s: TF.posterize(image, 8 - round(4 * abs(s))),
    "solarize": lambda image, s: TF.solarize(image, 255 * (1 - abs(s))),
    "invert": lambda image, s: TF.invert(image),
    "autocontrast": lambda image, s: TF.autocontrast(image),
    "equalize": lambda image, s: TF.equalize(image),
}


def randaugment(rng: np.random.Generator, image: Tensor, count: int, magnitude: int) -> Tensor:
    """A normalised RGB image (3, h, w) after `count` random operations.

    magnitude is 0..30; the sign of each strength is random. Operations work on uint8 levels, so
    the result is rounded to them.
    """
    mean, std = (image.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    levels = (image * std + mean).round().clamp(0, 255).to(torch.uint8)
    for name in rng.choice(list(OPERATIONS), count):
        strength = magnitude / MAX_MAGNITUDE * rng.choice([-1.0, 1.0])
        levels = OPERATIONS[str(name)](levels, float(strength))
    return (levels.float() - mean) / std
