"""Top-down training augmentation: one affine a sample, then colour, blur and dropout on the crop.

Laws and defaults of Sapiens' COCO configuration (mmpose/datasets/transforms/common_transforms.py,
pose/configs/sapiens_pose/coco): flip -> half body -> box shift, scale, rotation -> UDP affine ->
photometric distortion -> blur, median blur, coarse dropout. Arrays in, arrays out, rng an argument.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from pose.codecs import geometry
from pose.common.params import Augment
from pose.common.skeleton import Skeleton

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
MIN_UPPER, MIN_LOWER, UPPER_PROB = 2, 3, 0.7  # official half-body constants


def draw_affine(
    rng: np.random.Generator,
    augment: Augment,
    skeleton: Skeleton,
    bbox_xywh: Array,
    keypoints: Array,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int],
) -> tuple[Array, bool]:
    """A random (2, 3) affine image -> input, and whether it mirrors.

    keypoints (K, 3) with visibility choose the half body, one of the two of `skeleton`. A mirrored
    sample's keypoints must also be reordered, see move_keypoints.
    """
    flipped = bool(rng.random() < augment.flip_prob)
    mirror = geometry.mirror_affine(image_wh[0]) if flipped else np.eye(2, 3)
    x, y, w, h = bbox_xywh
    center = geometry.apply_affine(mirror, np.array([x + w / 2, y + h / 2]))
    scale = np.array([w, h]) * augment.bbox_padding
    chosen = half_body(rng, augment, skeleton, keypoints[:, 2])
    if chosen is not None:
        points = geometry.apply_affine(mirror, keypoints[chosen, :2])
        center = points.mean(axis=0)
        scale = np.maximum(np.ptp(points, axis=0), 1.0) * augment.half_body_padding
    center, scale, rotation_deg = transform_box(rng, augment, center, scale)
    scale = geometry.fix_aspect(scale, input_wh)
    affine = geometry.udp_affine(center, scale, rotation_deg, input_wh)
    return geometry.compose(affine, mirror), flipped


def half_body(
    rng: np.random.Generator, augment: Augment, skeleton: Skeleton, visibility: Array
) -> NDArray[np.intp] | None:
    """Indices of the labelled upper or lower body to crop to, or None for the whole person."""
    if np.minimum(visibility, 1).sum() < augment.half_body_min_keypoints:
        return None
    if rng.random() >= augment.half_body_prob:
        return None
    upper = np.array([k for k in skeleton.upper_body if visibility[k] > 0], dtype=np.intp)
    lower = np.array([k for k in skeleton.lower_body if visibility[k] > 0], dtype=np.intp)
    if len(upper) < MIN_UPPER and len(lower) < MIN_LOWER:
        return None
    if len(lower) < MIN_LOWER:
        return upper
    if len(upper) < MIN_UPPER:
        return lower
    return upper if rng.random() < UPPER_PROB else lower


def transform_box(
    rng: np.random.Generator, augment: Augment, center: Array, scale: Array
) -> tuple[Array, Array, float]:
    """Shifted center, zoomed scale and an angle in degrees, from truncated standard normals."""
    shift, zoom, turn = truncated_normal(rng, 2), truncated_normal(rng, 1), truncated_normal(rng, 1)
    moves, turns = rng.random(2) < (augment.shift_prob, augment.rotate_prob)
    center = center + shift * augment.shift_factor * scale * moves
    return (
        center,
        scale * (1 + zoom[0] * augment.scale_factor),
        float(turn[0] * augment.rotate_deg * turns),
    )


def truncated_normal(rng: np.random.Generator, count: int) -> Array:
    """Standard normal draws conditioned on [-1, 1] (standard deviation 0.54)."""
    draws = rng.standard_normal(count)
    while (outside := np.abs(draws) > 1).any():
        draws[outside] = rng.standard_normal(int(outside.sum()))
    return draws


def move_keypoints(
    affine: Array, keypoints: Array, flipped: bool, flip_indices: tuple[int, ...]
) -> tuple[Array, Array]:
    """Keypoints (K, 2) in input pixels and visibility (K,), mirror pairs swapped if flipped."""
    moved = keypoints[list(flip_indices)] if flipped else keypoints
    return geometry.apply_affine(affine, moved[:, :2]), moved[:, 2]


@dataclass(frozen=True)
class Colours:
    """A photometric distortion, drawn: tables (256,) of grey levels and the order of channels."""

    first: Image  # brightness, and contrast if it comes early
    in_hsv: bool
    saturation: Image
    hue: Image
    last: Image  # contrast if it comes late
    order: tuple[int, int, int]


UNCHANGED: Image = np.arange(256, dtype=np.uint8)
SAME_COLOURS = Colours(UNCHANGED, False, UNCHANGED, UNCHANGED, UNCHANGED, (0, 1, 2))


def draw_colours(rng: np.random.Generator, augment: Augment) -> Colours:
    """A photometric distortion, with or without the official quirks.

    As its documentation says, contrast changes with probability 1/2, before or after the colours
    with equal odds. As its code goes (both sites test the same draw), twice with probability 1/4
    and else never; and hue is added without modulo 180: it wraps at 256, so that reds turn green.
    Every step clips to uint8.
    """
    brightness = rng.uniform(-augment.brightness_delta, augment.brightness_delta) * rng.integers(2)
    contrast = _table(rng.uniform(*augment.contrast_range))
    before, after = _contrast_places(rng, augment.official_quirks)
    brighter = _table(1.0, brightness)
    mode = rng.integers(4)  # 0 none, 1 saturation, 2 hue, 3 both
    saturation = _table(rng.uniform(*augment.saturation_range))
    delta = int(rng.integers(-augment.hue_delta, augment.hue_delta)) if augment.hue_delta else 0
    hue = (np.arange(256) + delta) % (256 if augment.official_quirks else 180)
    swapped = rng.random() < augment.channel_swap_prob
    a, b, c = (int(k) for k in rng.permutation(3)) if swapped else range(3)
    return Colours(
        first=contrast[brighter] if before else brighter,
        in_hsv=bool(mode),
        saturation=saturation if mode in (1, 3) else UNCHANGED,
        hue=hue.astype(np.uint8) if mode in (2, 3) and augment.hue_delta else UNCHANGED,
        last=contrast if after else UNCHANGED,
        order=(a, b, c),
    )


def _contrast_places(rng: np.random.Generator, official_quirks: bool) -> tuple[bool, bool]:
    """Whether contrast changes before, and after, the colours."""
    if official_quirks:
        twice = bool(rng.integers(2) and rng.integers(2))
        return twice, twice
    early, applied = rng.integers(2, size=2) == 1
    return bool(early and applied), bool(applied and not early)


def _table(factor: float, offset: float = 0.0) -> Image:
    """(256,) grey levels * factor + offset in float32, clipped and cut to uint8."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(values, 0, 255).astype(np.uint8)


def recolour(image: Image, colours: Colours) -> Image:
    """The BGR image with drawn colours; recolour.py does the same on a device."""
    image = _looked_up(image, colours.first)
    if colours.in_hsv:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        for channel, table in ((1, colours.saturation), (0, colours.hue)):
            if table is not UNCHANGED:
                found = cv2.LUT(cv2.extractChannel(hsv, channel), table)
                cv2.insertChannel(found, hsv, channel)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).astype(np.uint8, copy=False)
    image = _looked_up(image, colours.last)
    if colours.order == (0, 1, 2):
        return image
    return cv2.merge([cv2.extractChannel(image, k) for k in colours.order]).astype(
        np.uint8, copy=False
    )


def _looked_up(image: Image, table: Image) -> Image:
    """Every grey level replaced by table's; a table that changes nothing costs nothing."""
    if (table == UNCHANGED).all():
        return image
    return cv2.LUT(image, table).astype(np.uint8, copy=False)


class Occlusion:
    """Blur, median blur and one black hole, by albumentations 2.x argument names.

    The 1.x names (max_holes, max_height ...) are ignored by 2.x with only a warning.
    """

    def __init__(self, augment: Augment) -> None:
        self.augment = augment
        self._blur = A.Compose([A.Blur(blur_limit=(3, 7), p=1.0)])
        self._median = A.Compose([A.MedianBlur(blur_limit=(3, 7), p=1.0)])
        self._dropout = A.CoarseDropout(
            num_holes_range=(1, 1),
            hole_height_range=augment.dropout_size,
            hole_width_range=augment.dropout_size,
            fill=0,
            p=1.0,
        )

    def draw(
        self, rng: np.random.Generator, input_wh: tuple[int, int]
    ) -> tuple[list[A.Compose], tuple[int, int, int, int]]:
        """The blurs to apply in turn, and the hole as x1, y1, x2, y2 (zeros: none)."""
        state = rng, random.Random(int(rng.integers(2**31)))
        odds = self.augment.blur_prob, self.augment.median_blur_prob, self.augment.dropout_prob
        blur, median, drop = rng.random(3) < odds
        chosen = [one for one, hit in ((self._blur, blur), (self._median, median)) if hit]
        for one in chosen:
            one.set_random_state(*state)
        if not drop:
            return chosen, (0, 0, 0, 0)
        self._dropout.set_random_state(*state)
        shape = {"shape": (input_wh[1], input_wh[0], 3)}
        x1, y1, x2, y2 = self._dropout.get_params_dependent_on_data(shape, {})["holes"][0]
        return chosen, (int(x1), int(y1), int(x2), int(y2))


def blurred(image: Image, blurs: list[A.Compose]) -> Image:
    """The image through blurs in turn."""
    for one in blurs:
        image = np.asarray(one(image=image)["image"], dtype=np.uint8)
    return image


def drop_(image: Image, hole: tuple[int, int, int, int]) -> None:
    """Blacken the hole x1, y1, x2, y2."""
    x1, y1, x2, y2 = hole
    image[y1:y2, x1:x2] = 0
