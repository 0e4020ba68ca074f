"""Keypoint sets: names, flip pairs, half-body groups, limbs, OKS sigmas; COCO_17 is that of COCO.

Source of COCO_17: the `categories` entry of person_keypoints_train2017.json and pycocotools'
cocoeval.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose.common.errors import PoseError

Pairs = tuple[tuple[int, int], ...]


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
MIRROR = {"left": "right", "right": "left", "l": "r", "r": "l"}


def build_skeleton(
    names: Sequence[str],
    limbs: Pairs,
    flip_pairs: Sequence[tuple[str, str]] | None,
    upper_body: Sequence[str] | None,
    lower_body: Sequence[str] | None,
) -> Skeleton:
    """The skeleton of these names; arguments that are None are derived, see params.yaml.

    Raises PoseError for a name that is not a keypoint, or is listed twice.
    """
    names = tuple(names)
    pairs = mirror_pairs(names) if flip_pairs is None else _given_pairs(names, flip_pairs)
    upper, lower = _groups(names, upper_body, lower_body)
    return Skeleton(names, pairs, upper, lower, limbs)


def mirror_pairs(names: Sequence[str]) -> Pairs:
    """(left, right) pairs of names that differ only in the word left/right or l/r.

    So left_eye, eye-left, L_eye and front_left_paw are left; case is ignored. Raises PoseError for
    a name with a side but no partner, since flip augmentation would label the wrong side.

    >>> mirror_pairs(["nose", "right_ear", "left_ear", "L-paw", "R-paw"])
    ((2, 1), (3, 4))
    """
    index = {name.lower(): k for k, name in enumerate(names)}
    partners = {k: index.get(other) for k, name in enumerate(names) if (other := _mirrored(name))}
    if unpaired := [names[k] for k, partner in partners.items() if partner is None]:
        raise PoseError(
            f"params.yaml: keypoints.flip_pairs is null, but {', '.join(unpaired)} has no partner "
            "of the other side; set the pairs as [[left, right], ...], [] for none"
        )
    return tuple((k, p) for k, p in partners.items() if p is not None and _is_left(names[k]))


def _mirrored(name: str) -> str | None:
    """The lower-case name with its side words exchanged, or None if it has none."""
    words = _words(name)
    return "".join(MIRROR.get(word, word) for word in words) if {*words} & {*MIRROR} else None


def _is_left(name: str) -> bool:
    return next(word for word in _words(name) if word in MIRROR) in ("left", "l")


def _words(name: str) -> list[str]:
    """The lower-case name split at `_`, `-`, `.` and spaces; the separators are items too."""
    return re.split(r"([_\-. ])", name.lower())


def _given_pairs(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Pairs:
    flat = _indices(names, [name for pair in pairs for name in pair], "flip_pairs")
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def _groups(
    names: tuple[str, ...], upper: Sequence[str] | None, lower: Sequence[str] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if upper is None or lower is None:
        return (COCO_17.upper_body, COCO_17.lower_body) if names == COCO_17.names else ((), ())
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
    """OKS sigmas (K,): the given ones, or COCO's for COCO's names, or OTHER_OKS_SIGMA for all.

    Raises PoseError if their number differs from that of the names.

    >>> oks_sigmas(["nose", "tail"], None)
    array([0.067, 0.067])
    """
    if given is None:
        if tuple(names) == COCO_17.names:
            return COCO_OKS_SIGMAS
        return np.full(len(names), OTHER_OKS_SIGMA)
    if len(given) != len(names):
        raise PoseError(
            f"params.yaml: keypoints.oks_sigmas has {len(given)} numbers, expected {len(names)}: "
            f"one for each of {shorten(names)}"
        )
    return np.array(given, dtype=np.float64)


def shorten(names: Sequence[str]) -> str:
    """All names, or the first 20 and their total number."""
    listed = ", ".join(names[:20])
    return listed if len(names) <= 20 else f"{listed} ... ({len(names)} in all)"
