"""The keypoints of COCO-WholeBody beside COCO's 17: feet, face and hands, by name.

Source: Jin et al., "Whole-Body Human Pose Estimation in the Wild", arXiv 2007.11858. Order, names,
pairs and limbs are those of ViTPose's coco_wholebody_info.py (mmpose has the same names and pairs),
sigmas those of the data set's evaluation code. The 68 points of the face are numbered as in 300W:
0..16 is the jaw from the person's right ear to the left one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

BODY, WHOLE = "body", "wholebody"  # the 17 of COCO; all parts together
FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
NamePairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Part:
    """Keypoints of one part. sigmas: of OKS, one per name. limbs: also from keypoints of the body.

    Face and hands are in neither half body, feet in the lower one.
    """

    names: tuple[str, ...]
    sigmas: tuple[float, ...]
    limbs: NamePairs = ()


def _thousandths(*values: int) -> tuple[float, ...]:
    return tuple(value / 1000 for value in values)


def _hand(side: str) -> Part:
    root = f"{side}_hand_root"
    fingers = [[f"{side}_{finger}{joint}" for joint in (1, 2, 3, 4)] for finger in FINGERS]
    chains = [[root, *finger] for finger in fingers]
    limbs = [pair for chain in chains for pair in pairwise(chain)]
    sigmas = (29, 22, 35, 37, 47, 26, 25, 24, 35, 18, 24, 22, 26, 17, 21, 21, 32, 20, 19, 22, 31)
    names = (root, *(name for finger in fingers for name in finger))
    return Part(names, _thousandths(*sigmas), tuple(limbs))


FOOT_NAMES = tuple(
    f"{side}_{point}" for side in ("left", "right") for point in ("big_toe", "small_toe", "heel")
)
FACE_SIGMAS = _thousandths(
    *(42, 43, 44, 43, 40, 35, 31, 25, 20, 23, 29, 32, 37, 38, 43, 41, 45),  # jaw
    *(13, 12, 11, 11, 12, 12, 11, 11, 13, 15),  # brows
    *(9, 7, 7, 7, 12, 9, 8, 16, 10),  # nose
    *(17, 11, 9, 11, 9, 7, 13, 8, 11, 12, 10, 34),  # eyes
    *(8, 8, 9, 8, 8, 7, 10, 8, 9, 9, 9, 7, 7, 8, 11, 8, 8, 8, 10, 8),  # lips, outer and inner
)
PARTS = {  # in the order of the 133
    "foot": Part(
        FOOT_NAMES,
        _thousandths(68, 66, 66, 92, 94, 94),
        tuple((f"{name.split('_')[0]}_ankle", name) for name in FOOT_NAMES),
    ),
    "face": Part(tuple(f"face-{k}" for k in range(68)), FACE_SIGMAS),
    "lefthand": _hand("left"),
    "righthand": _hand("right"),
}
ALL_PARTS = (BODY, *PARTS)

# Points of the face that mirror each other: (the person's left, right)
_FACE_PAIRS = (
    *((16 - k, k) for k in range(8)),
    *((43 - k, k) for k in range(17, 22)),
    *((35, 31), (34, 32)),
    *((45, 36), (44, 37), (43, 38), (42, 39), (47, 40), (46, 41)),
    *((54, 48), (53, 49), (52, 50), (55, 59), (56, 58), (64, 60), (63, 61), (65, 67)),
)
FLIP_PAIRS: NamePairs = (
    *((name, name.replace("left", "right")) for name in FOOT_NAMES[:3]),
    *((f"face-{left}", f"face-{right}") for left, right in _FACE_PAIRS),
    *zip(PARTS["lefthand"].names, PARTS["righthand"].names, strict=True),
)


def part_names(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the keypoints of these parts; the body's are skeleton.COCO_17's, and not here.

    >>> part_names(("body", "foot"))[:2]
    ('left_big_toe', 'left_small_toe')
    """
    return tuple(name for part in parts if part != BODY for name in PARTS[part].names)
