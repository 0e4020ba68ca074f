"""Top-down training augmentation: one affine per sample, then colour, blur and dropout on the crop.

Transforms, their order and their defaults are those of Sapiens' COCO configuration
(mmpose/datasets/transforms/common_transforms.py, pose/configs/sapiens_pose/coco): flip, half body,
box shift, scale and rotation, UDP affine, photometric distortion, blur, median blur, dropout.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.codecs import geometry
from pose.common.params import Augment
from pose.common.skeleton import Skeleton

if TYPE_CHECKING:
    import albumentations as A

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
    """A random affine (2, 3) from image to input pixels, and whether it flips the image.

    keypoints (K, 3: x, y, visibility) are in image pixels; a half body is the box around the
    labelled keypoints of one half of `skeleton`. Keypoints of a flipped sample must also be
    reordered, see transform_keypoints.
    """
    flipped = bool(rng.random() < augment.flip_prob)
    mirror = geometry.mirror_affine(image_wh[0]) if flipped else np.eye(2, 3)
    x, y, w, h = bbox_xywh
    center = geometry.apply_affine(mirror, np.array([x + w / 2, y + h / 2]))
    scale = np.array([w, h]) * augment.bbox_padding
    half_body = choose_half_body(rng, augment, skeleton, keypoints[:, 2])
    if half_body is not None:
        points = geometry.apply_affine(mirror, keypoints[half_body, :2])
        center = points.mean(axis=0)
        scale = np.maximum(np.ptp(points, axis=0), 1.0) * augment.half_body_padding
    center, scale, rotation_deg = jitter_box(rng, augment, center, scale)
    scale = geometry.fix_aspect(scale, input_wh)
    affine = geometry.udp_affine(center, scale, rotation_deg, input_wh)
    return geometry.compose(affine, mirror), flipped


def choose_half_body(
    rng: np.random.Generator, augment: Augment, skeleton: Skeleton, visibility: Array
) -> NDArray[np.intp] | None:
    """Indices of the labelled keypoints of the upper or lower body, or None for the whole person.

    visibility (K,) is COCO's 0, 1 or 2.
    """
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


def jitter_box(
    rng: np.random.Generator, augment: Augment, center: Array, scale: Array
) -> tuple[Array, Array, float]:
    """Shifted center, resized scale (image pixels) and a rotation in degrees.

    Amounts are truncated standard normals times the factors of `augment`.
    """
    shift, resize, rotation = (truncated_normal(rng, count) for count in (2, 1, 1))
    is_shifted, is_rotated = rng.random(2) < (augment.shift_prob, augment.rotate_prob)
    return (
        center + shift * augment.shift_factor * scale * is_shifted,
        scale * (1 + resize[0] * augment.scale_factor),
        float(rotation[0] * augment.rotate_deg * is_rotated),
    )


def truncated_normal(rng: np.random.Generator, count: int) -> Array:
    """Standard normal draws (count,) truncated to [-1, 1]; their standard deviation is 0.54."""
    draws = rng.standard_normal(count)
    while (outside := np.abs(draws) > 1).any():
        draws[outside] = rng.standard_normal(int(outside.sum()))
    return draws


def transform_keypoints(
    affine: Array, keypoints: Array, flipped: bool, flip_indices: tuple[int, ...]
) -> tuple[Array, Array]:
    """Keypoints (K, 2) in input pixels and visibility (K,); left and right swapped if flipped."""
    ordered = keypoints[list(flip_indices)] if flipped else keypoints
    return geometry.apply_affine(affine, ordered[:, :2]), ordered[:, 2]


@dataclass(frozen=True)
class ColourJitter:
    """Parameters of a photometric distortion: lookup tables (256,) uint8 and a channel order."""

    before: Image  # brightness, and contrast if it comes before saturation and hue
    use_hsv: bool  # whether the image is converted to HSV and back
    saturation: Image
    hue: Image
    after: Image  # contrast if it comes after saturation and hue
    channels: tuple[int, int, int]


IDENTITY: Image = np.arange(256, dtype=np.uint8)
NO_JITTER = ColourJitter(IDENTITY, False, IDENTITY, IDENTITY, IDENTITY, (0, 1, 2))


def draw_colour_jitter(rng: np.random.Generator, augment: Augment) -> ColourJitter:
    """A random photometric distortion, with or without the quirks of Sapiens' official code.

    augment.photometric_prob is the probability that there is one. As documented, and as in
    Sapiens2, contrast is applied with probability 1/2, before or after saturation and hue with
    equal odds. With augment.official_quirks it is applied twice with probability 1/4, else not at
    all (both places in the official code test the same draw), hue is never raised by all of
    hue_delta, and it is added without modulo 180: it wraps at 256, so that reds become green. Every
    step clips to uint8.
    """
    if augment.photometric_prob < 1 and rng.random() >= augment.photometric_prob:
        return NO_JITTER
    brightness = rng.uniform(-augment.brightness_delta, augment.brightness_delta) * rng.integers(2)
    contrast = _lookup_table(rng.uniform(*augment.contrast_range))
    contrast_before, contrast_after = _draw_contrast(rng, augment.official_quirks)
    brighter = _lookup_table(1.0, brightness)
    mode = rng.integers(4)  # 0 none, 1 saturation, 2 hue, 3 both
    saturation = _lookup_table(rng.uniform(*augment.saturation_range))
    hue = _draw_hue(rng, augment)
    swapped = rng.random() < augment.channel_swap_prob
    a, b, c = (int(k) for k in rng.permutation(3)) if swapped else range(3)
    return ColourJitter(
        before=contrast[brighter] if contrast_before else brighter,
        use_hsv=bool(mode),
        saturation=saturation if mode in (1, 3) else IDENTITY,
        hue=hue if mode in (2, 3) and augment.hue_delta else IDENTITY,
        after=contrast if contrast_after else IDENTITY,
        channels=(a, b, c),
    )


def _draw_contrast(rng: np.random.Generator, official_quirks: bool) -> tuple[bool, bool]:
    """Whether contrast is applied before, and whether after, saturation and hue."""
    if official_quirks:
        twice = bool(rng.integers(2) and rng.integers(2))
        return twice, twice
    early, applied = rng.integers(2, size=2) == 1
    return bool(early and applied), bool(applied and not early)


def _draw_hue(rng: np.random.Generator, augment: Augment) -> Image:
    """(256,) hues after a shift of up to hue_delta; nothing is drawn if that is 0."""
    quirks, largest = augment.official_quirks, augment.hue_delta
    delta = int(rng.integers(-largest, largest, endpoint=not quirks)) if largest else 0
    return ((np.arange(256) + delta) % (256 if quirks else 180)).astype(np.uint8)


def _lookup_table(factor: float, offset: float = 0.0) -> Image:
    """(256,) grey levels * factor + offset in float32, clipped and truncated to uint8."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    table: Image = np.clip(values, 0, 255).astype(np.uint8)
    return table


def apply_colour_jitter(image: Image, jitter: ColourJitter) -> Image:
    """The BGR image (H, W, 3) with jitter applied; augment_device.py does the same on a GPU."""
    image = _lookup(image, jitter.before)
    if jitter.use_hsv:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        for channel, table in ((1, jitter.saturation), (0, jitter.hue)):
            if table is not IDENTITY:
                values = cv2.LUT(cv2.extractChannel(hsv, channel), table)
                cv2.insertChannel(values, hsv, channel)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).astype(np.uint8, copy=False)
    image = _lookup(image, jitter.after)
    if jitter.channels == (0, 1, 2):
        return image
    return cv2.merge([cv2.extractChannel(image, k) for k in jitter.channels]).astype(
        np.uint8, copy=False
    )


def _lookup(image: Image, table: Image) -> Image:
    """Every grey level replaced by that of table (256,); skipped if the table is the identity."""
    if (table == IDENTITY).all():
        return image
    return cv2.LUT(image, table).astype(np.uint8, copy=False)


class BlurDropout:
    """Draws blur, median blur and coarse dropout (one black hole) with albumentations 2.x.

    The arguments have the names of 2.x: it ignores those of 1.x (max_holes, max_height) with only a
    warning.
    """

    def __init__(self, augment: Augment) -> None:
        import albumentations as A  # only training needs it

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
        """The blurs to apply in turn, and the hole as x1, y1, x2, y2 in input pixels (zeros: none).

        The kernel sizes of the blurs are drawn when they are applied.
        """
        state = rng, random.Random(int(rng.integers(2**31)))
        probs = self.augment.blur_prob, self.augment.median_blur_prob, self.augment.dropout_prob
        use_blur, use_median, use_dropout = rng.random(3) < probs
        blurs = [
            blur for blur, used in ((self._blur, use_blur), (self._median, use_median)) if used
        ]
        for blur in blurs:
            blur.set_random_state(*state)
        if not use_dropout:
            return blurs, (0, 0, 0, 0)
        self._dropout.set_random_state(*state)
        shape = {"shape": (input_wh[1], input_wh[0], 3)}
        x1, y1, x2, y2 = self._dropout.get_params_dependent_on_data(shape, {})["holes"][0]
        return blurs, (int(x1), int(y1), int(x2), int(y2))


def apply_blurs(image: Image, blurs: list[A.Compose]) -> Image:
    """The image after all blurs, in turn."""
    for blur in blurs:
        image = np.asarray(blur(image=image)["image"], dtype=np.uint8)
    return image


def fill_hole_(image: Image, hole: tuple[int, int, int, int]) -> None:
    """Make the hole x1, y1, x2, y2 black."""
    x1, y1, x2, y2 = hole
    image[y1:y2, x1:x2] = 0
