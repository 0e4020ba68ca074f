"""Read the limbs (`skeleton`) of a COCO category. They are lines in pictures and train nothing."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from pose.common.sides import Pairs


def read_limbs(skeleton: Any, names: Sequence[str]) -> tuple[Pairs, list[str]]:
    """Limbs by index from 0, and a sentence for each peculiarity of `skeleton`.

    A limb is two different keypoints, by numbers that count from 1 or by names; others are left
    out. Numbers count from 0 if they contain a 0 and all of them are below K.
    """
    listed = skeleton if isinstance(skeleton, list) else [skeleton] if skeleton else []
    first = 0 if _count_from_0(listed, len(names)) else 1
    limbs = [_limb(item, names, first) for item in listed]
    notes = ["limbs contain keypoint 0 and are read as counted from 0"] if first == 0 else []
    if left_out := [item for item, limb in zip(listed, limbs, strict=True) if limb is None]:
        notes.append(
            f"left out {len(left_out)} of {len(limbs)} limbs, which are not two of its "
            f"{len(names)} keypoints; first: {reprlib.repr(left_out[0])}"
        )
    return tuple(limb for limb in limbs if limb is not None), notes


def _count_from_0(limbs: list[Any], count: int) -> bool:
    numbers = [k for limb in limbs if _is_pair(limb, int) for k in limb]
    return 0 in numbers and all(0 <= k < count for k in numbers)


def _is_pair(limb: Any, kind: type) -> bool:
    """Whether limb is two different values of this type; True is no number."""
    if not isinstance(limb, list) or len(limb) != 2:
        return False
    return all(type(end) is kind for end in limb) and limb[0] != limb[1]


def _limb(limb: Any, names: Sequence[str], first: int) -> tuple[int, int] | None:
    """The indices of a limb's ends, or None if it is not two different keypoints."""
    if _is_pair(limb, int):
        start, end = limb[0] - first, limb[1] - first
    elif _is_pair(limb, str) and all(name.strip() in names for name in limb):
        start, end = (names.index(name.strip()) for name in limb)
    else:
        return None
    return (start, end) if start != end and {start, end} <= {*range(len(names))} else None
