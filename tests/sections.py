"""Sections of params.yaml for tests: the embedded default with other values.

Not a test itself. Values are not validated, so that a test can go beyond what params.yaml admits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pose.common.params import Params, Section, load_params

S = TypeVar("S", bound=Section)
DEFAULT: Params = load_params(Path(__file__).resolve().parents[1] / "params.yaml")


def changed(section: S, **changes: Any) -> S:
    """A copy of a section with other values; the keys must exist."""
    assert changes.keys() <= type(section).model_fields.keys(), changes
    return section.model_copy(update=changes)


# Boxes and colours stay as they are.
NO_AUGMENT = changed(
    DEFAULT.augment,
    bbox_padding=1.25,
    flip_prob=0.0,
    half_body_prob=0.0,
    half_body_padding=1.5,
    half_body_min_keypoints=9,
    shift_factor=0.0,
    shift_prob=0.0,
    scale_factor=0.0,
    rotate_deg=0.0,
    rotate_prob=0.0,
    photometric_prob=1.0,
    brightness_delta=0,
    contrast_range=(1.0, 1.0),
    saturation_range=(1.0, 1.0),
    hue_delta=0,
    channel_swap_prob=0.0,
    blur_prob=0.0,
    median_blur_prob=0.0,
    dropout_prob=0.0,
    dropout_size=(0.2, 0.4),
    official_quirks=True,
)
BOX_AUGMENT = changed(
    NO_AUGMENT,
    flip_prob=0.5,
    half_body_prob=0.3,
    shift_factor=0.1,
    shift_prob=0.3,
    scale_factor=0.3,
    rotate_deg=30.0,
    rotate_prob=0.6,
)
FULL_AUGMENT = changed(
    BOX_AUGMENT,
    brightness_delta=32,
    contrast_range=(0.5, 1.5),
    saturation_range=(0.5, 1.5),
    hue_delta=18,
    channel_swap_prob=0.5,
    blur_prob=0.1,
    median_blur_prob=0.1,
    dropout_prob=1.0,
)
