"""Sapiens' 308 keypoints (Sociopticon): the rows of a head for other sets of keypoints."""

from __future__ import annotations

from collections.abc import Sequence

from pose.common.skeleton import COCO_17

COUNT = 308
FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
JOINTS = ("4", "3", "2", "_third_joint")  # from the tip


def _hand(side: str) -> tuple[str, ...]:
    joints = tuple(f"{side}_{finger}{joint}" for finger in FINGERS for joint in JOINTS)
    return (*joints, f"{side}_wrist")


# Names of the first 63: body, feet, right hand, left hand. The others are of neck, head and face.
NAMES = (
    *(name for name in COCO_17.names if not name.endswith("_wrist")),  # which are in the hands
    "left_big_toe",
    "left_small_toe",
    "left_heel",
    "right_big_toe",
    "right_small_toe",
    "right_heel",
    *_hand("right"),
    *_hand("left"),
)


def rows_for(names: Sequence[str]) -> list[int] | None:
    """The row of each keypoint among the 308; None if one is not in NAMES.

    >>> rows_for(["nose", "left_wrist", "right_wrist", "left_hip"])
    [0, 62, 41, 9]
    """
    if not set(names) <= set(NAMES):
        return None
    return [NAMES.index(name) for name in names]
