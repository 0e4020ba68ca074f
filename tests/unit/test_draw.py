"""Poses of any skeleton are drawn: each side in its colour, with limbs if there are any."""

from __future__ import annotations

import numpy as np
import pytest

from pose.common.skeleton import COCO_17, build_skeleton, whole_body
from pose.common.whole_body import ALL_PARTS
from pose.draw import LEFT, MIDDLE, RIGHT, draw_pose, fine_keypoints, side_colour

NAMES = ("r_ear", "l_ear", "nose", "r_paw", "l_paw")
MOUSE = build_skeleton(NAMES, ((0, 3), (2, 0)), None, None, None)


@pytest.mark.parametrize("k", range(17))
def test_colours_of_the_sides_of_coco(k: int) -> None:
    side = COCO_17.names[k].split("_")[0]
    assert side_colour(COCO_17, k) == {"left": LEFT, "right": RIGHT}.get(side, MIDDLE)


def test_a_limb_has_the_colour_of_the_side_of_both_ends() -> None:
    assert side_colour(MOUSE, 0, 3) == RIGHT
    assert side_colour(MOUSE, 4, 1) == LEFT
    assert side_colour(MOUSE, 0, 1) == side_colour(MOUSE, 0, 2) == MIDDLE


def test_only_shown_keypoints_are_drawn() -> None:
    blank = np.zeros((60, 60, 3), np.uint8)
    points = np.array([(10, 10), (30, 10), (50, 10), (10, 50), (50, 50)], float)
    shown = np.array([True, True, False, True, False])
    drawn = draw_pose(blank, MOUSE, points, shown, 2)
    assert tuple(drawn[10, 10]) == tuple(drawn[30, 10]) == RIGHT  # keypoint, and limb to the paw
    assert tuple(drawn[10, 30]) == LEFT
    assert not drawn[10, 50].any()
    assert not blank.any()


def test_without_limbs_keypoints_are_drawn() -> None:
    dots = build_skeleton(("a",), (), None, None, None)
    drawn = draw_pose(
        np.zeros((9, 9, 3), np.uint8), dots, np.full((1, 2), 4.0), np.ones(1, bool), 1
    )
    assert tuple(drawn[4, 4]) == MIDDLE


def test_hands_and_face_are_drawn_small() -> None:
    """A point of the face has fewer pixels than an elbow, and a finger is thinner than an arm."""
    skeleton = whole_body(ALL_PARTS)
    at = {name: k for k, name in enumerate(skeleton.names)}
    assert fine_keypoints(skeleton.names) == {*range(5), *range(23, 133)}
    assert fine_keypoints(whole_body(("body", "foot")).names) == frozenset()
    assert fine_keypoints(COCO_17.names) == frozenset()

    def drawn(*names: str) -> int:
        points, shown = np.full((133, 2), 5.0), np.zeros(133, bool)
        points[at[names[0]]] = 35
        shown[[at[name] for name in names]] = True
        image = draw_pose(np.zeros((40, 40, 3), np.uint8), skeleton, points, shown, 2)
        return int(image.any(axis=2).sum())

    assert 0 < drawn("face-30") < drawn("left_elbow") / 2
    assert drawn("nose") == drawn("face-30")
    assert drawn("left_thumb2", "left_thumb3") < drawn("left_elbow", "left_wrist") * 0.7
