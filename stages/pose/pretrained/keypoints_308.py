"""Sapiens' 308 keypoints (Sociopticon): the rows of a head for other sets of keypoints."""

from __future__ import annotations

from collections.abc import Sequence

from pose.common.skeleton import COCO_17
from pose.common.whole_body import FINGERS, PARTS

COUNT = 308
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


# Names of COCO-WholeBody's hands that the 308 have under another name. The root is the wrist, from
# which the fingers of the 308 start, too. A finger's first joint is its third one from the tip:
# Sapiens' goliath.py gives both the same OKS sigma.
OTHER_NAMES = {
    name: other
    for side in ("left", "right")
    for name, other in (
        (f"{side}_hand_root", f"{side}_wrist"),
        *((f"{side}_{finger}1", f"{side}_{finger}_third_joint") for finger in FINGERS),
    )
}


def rows_for(names: Sequence[str]) -> list[int | None] | None:
    """The row of each keypoint among the 308; None if one is neither in NAMES nor of the face.

    The 68 points of COCO-WholeBody's face have no row: None in the list.

    >>> rows_for(["nose", "left_wrist", "right_wrist", "left_hip", "left_thumb1", "face-0"])
    [0, 62, 41, 9, 45, None]
    """
    face = set(PARTS["face"].names)
    found = [OTHER_NAMES.get(name, name) for name in names]
    if not set(found) <= {*NAMES, *face}:
        return None
    return [None if name in face else NAMES.index(name) for name in found]
