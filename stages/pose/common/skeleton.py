"""Keypoint sets: names, flip pairs, half-body groups, limbs, OKS sigmas; COCO_17 is that of COCO.

whole_body.py has the keypoints of COCO-WholeBody that are added to COCO_17 by keypoints.parts.
Source of COCO_17: the `categories` entry of person_keypoints_train2017.json and pycocotools'
cocoeval.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose.common.errors import PoseError, shorten
from pose.common.sides import Pairs, mirror_pairs
from pose.common.whole_body import BODY, FLIP_PAIRS, FOOT_NAMES, PARTS, part_names


@dataclass(frozen=True)
class Skeleton:
    """A set of K keypoints; all fields refer to them by their index in `names`, from 0."""

    names: tuple[str, ...]
    flip_pairs: Pairs  # (left, right)
    upper_body: tuple[int, ...]  # half-body groups; both empty: no half-body augmentation
    lower_body: tuple[int, ...]
    limbs: Pairs  # lines in drawings; nothing else uses them

    @property
    def num_keypoints(self) -> int:
        return len(self.names)

    @property
    def flip_indices(self) -> tuple[int, ...]:
        """flip_indices[k] is the keypoint that k becomes in a mirrored image."""
        order = list(range(len(self.names)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)


COCO_17 = Skeleton(
    names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=tuple((left, left + 1) for left in range(1, 17, 2)),
    upper_body=tuple(range(11)),
    lower_body=tuple(range(11, 17)),
    limbs=(
        (15, 13),
        (13, 11),
        (16, 14),
        (14, 12),
        (11, 12),
        (5, 11),
        (6, 12),
        (5, 6),
        (5, 7),
        (6, 8),
        (7, 9),
        (8, 10),
        (1, 2),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
    ),
)

# Per-keypoint fall-off of the object keypoint similarity (cocoeval.py: kpt_oks_sigmas).
COCO_OKS_SIGMAS = (
    np.array(
        [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], dtype=np.float64
    )
    / 1000
)
OTHER_OKS_SIGMA = 0.067  # the mean of COCO's, so that AP is as strict as COCO's on average


def are_cocos(names: Sequence[str]) -> bool:
    """Whether these are COCO's 17 names, in any order."""
    return len(names) == COCO_17.num_keypoints and {*names} == {*COCO_17.names}


def names_of_parts(parts: Sequence[str]) -> tuple[str, ...]:
    """Names of the body's 17 keypoints and of those of the other parts (keypoints.parts).

    >>> len(names_of_parts(["body", "foot"]))
    23
    """
    return COCO_17.names + part_names(tuple(parts))


def asked_names(parts: Sequence[str] | None, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names that keypoints.parts or keypoints.names asks for; None: those of the file."""
    if parts is not None:
        return names_of_parts(parts)
    return None if names is None else tuple(names)


def parts_of(names: Sequence[str]) -> dict[str, slice]:
    """Where the parts of COCO-WholeBody are among these names; {} for names of anything else.

    COCO's 17 alone have no parts.

    >>> parts_of(names_of_parts(["body", "foot"]))
    {'body': slice(0, 17, None), 'foot': slice(17, 23, None)}
    """
    names, count = tuple(names), COCO_17.num_keypoints
    parts = {BODY: slice(0, count)}
    for name, part in PARTS.items():
        if names[count : count + len(part.names)] == part.names:
            parts[name] = slice(count, count + len(part.names))
            count += len(part.names)
    is_known = names[: COCO_17.num_keypoints] == COCO_17.names and count == len(names)
    return parts if is_known and len(parts) > 1 else {}


def both_hands_or_none(parts: Collection[str]) -> bool:
    """Whether a mirrored pose has the same parts: a mirrored left hand is a right one."""
    return ("lefthand" in parts) == ("righthand" in parts)


def whole_body(parts: Sequence[str]) -> Skeleton:
    """COCO_17 with the keypoints of these parts of COCO-WholeBody."""
    names = names_of_parts(parts)
    at = {name: k for k, name in enumerate(names)}
    pairs = tuple((at[left], at[right]) for left, right in FLIP_PAIRS if left in at)
    limbs = (limb for part in parts if part != BODY for limb in PARTS[part].limbs)
    feet = tuple(at[name] for name in FOOT_NAMES if name in at)
    return Skeleton(
        names=names,
        flip_pairs=COCO_17.flip_pairs + pairs,
        upper_body=COCO_17.upper_body,
        lower_body=COCO_17.lower_body + feet,
        limbs=COCO_17.limbs + tuple((at[start], at[end]) for start, end in limbs),
    )


def _built_in(names: Sequence[str]) -> Skeleton | None:
    """The skeleton of COCO's 17 in this order, or of parts of COCO-WholeBody; None for other names.

    None too for one hand alone, whose keypoints have no partners.
    """
    if are_cocos(names):
        return _coco_17(names)
    parts = parts_of(names)
    return whole_body(list(parts)) if parts and both_hands_or_none(parts) else None


def _coco_17(names: Sequence[str]) -> Skeleton:
    """COCO_17 with its keypoints in the order of `names`."""
    at = [names.index(name) for name in COCO_17.names]
    return Skeleton(
        names=tuple(names),
        flip_pairs=tuple((at[left], at[right]) for left, right in COCO_17.flip_pairs),
        upper_body=tuple(at[k] for k in COCO_17.upper_body),
        lower_body=tuple(at[k] for k in COCO_17.lower_body),
        limbs=tuple((at[start], at[end]) for start, end in COCO_17.limbs),
    )


def build_skeleton(
    names: Sequence[str],
    limbs: Pairs,
    flip_pairs: Sequence[tuple[str, str]] | None,
    upper_body: Sequence[str] | None,
    lower_body: Sequence[str] | None,
) -> Skeleton:
    """The skeleton of these names; arguments that are None are derived, see params.yaml.

    Raises PoseError for a name that is not a keypoint, or is listed twice, and for names whose
    pairs cannot be derived, see sides.mirror_pairs.
    """
    names, known = tuple(names), _built_in(names)
    if flip_pairs is not None:
        pairs = _given_pairs(names, flip_pairs)
    else:
        pairs = known.flip_pairs if known else mirror_pairs(names)
    upper, lower = _groups(names, upper_body, lower_body)
    return Skeleton(names, pairs, upper, lower, limbs)


def describe_flip_pairs(skeleton: Skeleton) -> str:
    """One line about the pairs and the keypoints without one.

    >>> describe_flip_pairs(Skeleton(("nose", "l_ear", "r_ear"), ((1, 2),), (), (), ()))
    '1 flip pair: l_ear - r_ear; 1 unpaired: nose'
    """
    names, pairs = skeleton.names, skeleton.flip_pairs
    paired = {index for pair in pairs for index in pair}
    listed = shorten([f"{names[left]} - {names[right]}" for left, right in pairs])
    unpaired = [name for k, name in enumerate(names) if k not in paired]
    parts = [f"{len(pairs)} flip pair{'s' * (len(pairs) != 1)}" + f": {listed}" * bool(pairs)]
    parts += [f"{len(unpaired)} unpaired: {shorten(unpaired)}"] * bool(unpaired)
    return "; ".join(parts)


def limbs_by_name(names: Sequence[str], limbs: Sequence[tuple[str, str]]) -> Pairs:
    """The limbs by index. Raises PoseError for a name that is not a keypoint."""
    indices = {name: _indices(names, [name], "skeleton")[0] for limb in limbs for name in limb}
    return tuple((indices[start], indices[end]) for start, end in limbs)


def _given_pairs(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Pairs:
    flat = _indices(names, [name for pair in pairs for name in pair], "flip_pairs")
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def _groups(
    names: tuple[str, ...], upper: Sequence[str] | None, lower: Sequence[str] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if upper is None or lower is None:
        known = _built_in(names)
        return (known.upper_body, known.lower_body) if known else ((), ())
    indices = _indices(names, [*upper, *lower], "upper_body and lower_body")
    return indices[: len(upper)], indices[len(upper) :]


def _indices(names: Sequence[str], wanted: Sequence[str], key: str) -> tuple[int, ...]:
    """Indices of the wanted names. Raises PoseError if one is unknown or listed twice."""
    for name in wanted:
        if name not in names:
            raise PoseError(
                f"params.yaml: keypoints.{key}: {name!r} is not a keypoint; there are: "
                f"{shorten(names)}"
            )
        if wanted.count(name) > 1:
            raise PoseError(f"params.yaml: keypoints.{key}: {name!r} is listed twice; remove one")
    return tuple(names.index(name) for name in wanted)


def oks_sigmas(names: Sequence[str], given: Sequence[float] | None) -> NDArray[np.float64]:
    """OKS sigmas (K,): the given ones, or those of known names, or OTHER_OKS_SIGMA for all.

    COCO's names are known in any order, COCO-WholeBody's in its own.

    Raises PoseError if their number differs from that of the names.

    >>> oks_sigmas(["nose", "tail"], None)
    array([0.067, 0.067])
    """
    if given is None:
        if are_cocos(names):
            return COCO_OKS_SIGMAS[[COCO_17.names.index(name) for name in names]]
        if parts := parts_of(names):
            others = [PARTS[part].sigmas for part in parts if part != BODY]
            return np.concatenate([COCO_OKS_SIGMAS, *others])
        return np.full(len(names), OTHER_OKS_SIGMA)
    if len(given) != len(names):
        raise PoseError(
            f"params.yaml: keypoints.oks_sigmas has {len(given)} numbers, expected {len(names)}: "
            f"one for each of {shorten(names)}"
        )
    return np.array(given, dtype=np.float64)
