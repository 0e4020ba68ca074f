"""What a list of names tells: pairs, half bodies, sigmas; and each mistake in what is given."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter

from pose.common.errors import PoseError
from pose.common.skeleton import (
    COCO_17,
    COCO_OKS_SIGMAS,
    Skeleton,
    build_skeleton,
    describe_flip_pairs,
    limbs_by_name,
    oks_sigmas,
)

MOUSE = ("nose", "left_ear", "right_ear", "tail")


def build(names=MOUSE, flip_pairs=None, upper=None, lower=None) -> Skeleton:
    return build_skeleton(names, ((0, 3),), flip_pairs, upper, lower)


def message(**others: object) -> str:
    with pytest.raises(PoseError) as caught:
        build(**others)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cocos_names_give_cocos_skeleton() -> None:
    assert build_skeleton(COCO_17.names, COCO_17.limbs, None, None, None) == COCO_17
    assert COCO_17.flip_indices == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


def test_a_side_without_a_partner_is_a_mistake() -> None:
    found = message(names=("left_eye", "nose"))
    assert found.startswith(
        "params.yaml: keypoints.flip_pairs is null, but left_eye has no single partner"
    )
    assert build(names=("left_eye", "nose"), flip_pairs=[]).flip_indices == (0, 1)


def test_given_pairs_count_alone() -> None:
    found = build(flip_pairs=[("tail", "nose")])
    assert found.flip_pairs == ((3, 0),)
    assert found.flip_indices == (3, 1, 2, 0)


def test_given_pairs_are_not_guessed() -> None:
    names = ("left_eye", "nose", "a", "b", "c", "d")
    assert build(names=names, flip_pairs=[]).flip_pairs == ()
    assert build(names=names, flip_pairs=[("a", "b")]).flip_pairs == ((2, 3),)


def test_what_is_logged_of_the_pairs() -> None:
    assert describe_flip_pairs(build()) == (
        "1 flip pair: left_ear - right_ear; 2 unpaired: nose, tail"
    )
    assert describe_flip_pairs(build(flip_pairs=[])).startswith("0 flip pairs; 4 unpaired: nose, ")
    assert describe_flip_pairs(COCO_17).startswith("8 flip pairs: left_eye - right_eye, left_ear -")
    assert describe_flip_pairs(COCO_17).endswith("; 1 unpaired: nose")
    assert describe_flip_pairs(build(names=("L", "R"))) == "1 flip pair: L - R"


def test_limbs_by_name() -> None:
    assert limbs_by_name(MOUSE, []) == ()
    assert limbs_by_name(MOUSE, [("tail", "nose"), ("nose", "left_ear")]) == ((3, 0), (0, 1))
    with pytest.raises(PoseError, match=r"keypoints.skeleton: 'leg' is not a keypoint; there are"):
        limbs_by_name(MOUSE, [("nose", "leg")])


def test_half_bodies() -> None:
    assert build().upper_body == build().lower_body == ()
    found = build(upper=["nose", "right_ear"], lower=["tail"])
    assert (found.upper_body, found.lower_body) == ((0, 2), (3,))
    off = build(names=COCO_17.names, upper=[], lower=[])
    assert off.upper_body == off.lower_body == ()


def test_cocos_names_in_another_order_keep_cocos_values() -> None:
    names = COCO_17.names[::-1]
    turned = build(names=names)
    assert {names[k] for k in turned.upper_body} == {*COCO_17.names[:11]}
    assert {names[k] for k in turned.lower_body} == {*COCO_17.names[11:]}
    assert {*turned.flip_pairs} == {(16 - a, 16 - b) for a, b in COCO_17.flip_pairs}
    np.testing.assert_array_equal(oks_sigmas(names, None), COCO_OKS_SIGMAS[::-1])
    assert build(names=(*names, "chin")).upper_body == ()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"flip_pairs": [("nose", "x")]},
            "flip_pairs: 'x' is not a keypoint; there are: nose, left_",
        ),
        ({"flip_pairs": [("nose", "nose")]}, "flip_pairs: 'nose' is listed twice; remove one"),
        (
            {"flip_pairs": [("nose", "tail"), ("tail", "left_ear")]},
            "flip_pairs: 'tail' is listed twice",
        ),
        (
            {"upper": ["nose"], "lower": ["legs"]},
            "upper_body and lower_body: 'legs' is not a keypoint",
        ),
        (
            {"upper": ["nose"], "lower": ["nose"]},
            "upper_body and lower_body: 'nose' is listed twice",
        ),
    ],
)
def test_mistakes_in_what_is_given(given: dict, expected: str) -> None:
    assert message(**given).startswith(f"params.yaml: keypoints.{expected}")


def test_sigmas() -> None:
    np.testing.assert_array_equal(oks_sigmas(COCO_17.names, None), COCO_OKS_SIGMAS)
    np.testing.assert_array_equal(oks_sigmas(MOUSE, None), [0.067] * 4)
    assert COCO_OKS_SIGMAS.mean() == pytest.approx(0.067, abs=1e-4)
    np.testing.assert_array_equal(oks_sigmas(MOUSE, [0.1, 0.2, 0.3, 0.4]), [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(
        PoseError, match="oks_sigmas has 3 numbers, expected 4: one for each of nose"
    ):
        oks_sigmas(MOUSE, [0.1] * 3)


def test_json_and_back() -> None:
    kind = TypeAdapter(Skeleton)
    assert kind.validate_json(kind.dump_json(COCO_17)) == COCO_17
