"""COCO-WholeBody's keypoints: the numbers of its evaluation code, and any choice of parts."""

from __future__ import annotations

import hashlib
import json

import pytest

from pose.common.errors import PoseError
from pose.common.skeleton import (
    COCO_17,
    asked_names,
    build_skeleton,
    names_of_parts,
    oks_sigmas,
    parts_of,
    whole_body,
)
from pose.common.whole_body import ALL_PARTS, PARTS

FEET = ("body", "foot")
HANDS = ("body", "lefthand", "righthand")


def test_places_of_the_133() -> None:
    assert parts_of(names_of_parts(ALL_PARTS)) == {
        "body": slice(0, 17),
        "foot": slice(17, 23),
        "face": slice(23, 91),
        "lefthand": slice(91, 112),
        "righthand": slice(112, 133),
    }


@pytest.mark.parametrize("names", [(), ("nose",), COCO_17.names, (*COCO_17.names, "tail")])
def test_other_names_have_no_parts(names: tuple[str, ...]) -> None:
    assert parts_of(names) == {}
    assert parts_of(names_of_parts(ALL_PARTS)[1:]) == {}


def test_names_and_sigmas_are_the_official_ones() -> None:
    """Sums and digest were taken from a table copied from ViTPose's coco_wholebody_info.py."""
    names = names_of_parts(ALL_PARTS)
    sigmas = oks_sigmas(names, None)
    assert len(names) == len(sigmas) == 133
    sums = {part: round(float(sigmas[where].sum()), 3) for part, where in parts_of(names).items()}
    assert sums == {
        "body": 1.138,
        "foot": 0.48,
        "face": 1.137,
        "lefthand": 0.553,
        "righthand": 0.553,
    }
    digest = hashlib.sha256(json.dumps([*names, *sigmas.tolist()]).encode()).hexdigest()
    assert digest[:16] == "8099894b8afcca3f"


@pytest.mark.parametrize("parts", [FEET, HANDS, ALL_PARTS])
def test_derived_as_built_in(parts: tuple[str, ...]) -> None:
    skeleton = whole_body(parts)
    assert build_skeleton(skeleton.names, skeleton.limbs, None, None, None) == skeleton
    assert skeleton.flip_pairs[:8] == COCO_17.flip_pairs
    flips = skeleton.flip_indices
    assert [flips[k] for k in flips] == [*range(skeleton.num_keypoints)]
    assert len(oks_sigmas(skeleton.names, None)) == skeleton.num_keypoints


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_hand_alone_has_no_partners(side: str) -> None:
    names = names_of_parts(("body", f"{side}hand"))
    with pytest.raises(PoseError, match=f"flip_pairs is null, but {side}_hand_root, "):
        build_skeleton(names, (), None, None, None)
    given = build_skeleton(names, (), [("left_eye", "right_eye")], None, None)
    assert given.flip_pairs == ((1, 2),)
    assert given.upper_body == given.lower_body == ()


def test_names_that_params_ask_for() -> None:
    assert asked_names(None, None) is None
    assert asked_names(None, ["nose"]) == ("nose",)
    assert asked_names(FEET, None) == names_of_parts(FEET)


def test_half_bodies_get_the_feet() -> None:
    names = names_of_parts(FEET)
    assert whole_body(FEET).upper_body == COCO_17.upper_body
    assert [names[k] for k in whole_body(FEET).lower_body[6:]] == [*PARTS["foot"].names]
    assert whole_body(HANDS).lower_body == COCO_17.lower_body


def test_mirrored_points_are_of_the_same_part() -> None:
    skeleton = whole_body(ALL_PARTS)
    hands = {91 + k: 112 + k for k in range(21)}
    for left, right in skeleton.flip_pairs:
        assert hands.get(left, right) == right
    unpaired = [k for k, flip in enumerate(skeleton.flip_indices) if k == flip]
    assert [skeleton.names[k] for k in unpaired] == [
        "nose",
        *(f"face-{k}" for k in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66)),
    ]


def test_each_finger_starts_at_the_root_of_its_hand() -> None:
    skeleton = whole_body(HANDS)
    limbs = {(skeleton.names[a], skeleton.names[b]) for a, b in skeleton.limbs}
    assert ("left_hand_root", "left_thumb1") in limbs
    assert ("right_pinky_finger3", "right_pinky_finger4") in limbs
    assert len(skeleton.limbs) == len(COCO_17.limbs) + 40
