"""COCO-17 person keypoints: names, mirror pairs, limbs, half-body groups and OKS sigmas.

Source: the `categories` entry of person_keypoints_train2017.json and pycocotools' cocoeval.py.
"""

from __future__ import annotations

import numpy as np

KEYPOINTS = (
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
)
NUM_KEYPOINTS = len(KEYPOINTS)

FLIP_PAIRS = tuple((i, i + 1) for i in range(1, NUM_KEYPOINTS, 2))


def _flip_indices() -> tuple[int, ...]:
    order = list(range(NUM_KEYPOINTS))
    for left, right in FLIP_PAIRS:
        order[left], order[right] = right, left
    return tuple(order)


# FLIP_INDICES[k] is the keypoint that k becomes in a mirrored image.
FLIP_INDICES = _flip_indices()

UPPER_BODY = tuple(range(11))
LOWER_BODY = tuple(range(11, NUM_KEYPOINTS))

# Limbs as 0-based keypoint pairs (COCO's `skeleton` is the same list, 1-based).
LIMBS = (
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
)

# Per-keypoint fall-off of the object keypoint similarity (cocoeval.py: kpt_oks_sigmas).
OKS_SIGMAS = (
    np.array(
        [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], dtype=np.float64
    )
    / 1000
)
