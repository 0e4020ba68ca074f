"""Limbs as files have them: by COCO's numbers, from 0, by name, beyond K, or malformed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pose.coco.limbs import read_limbs

NAMES = ("nose", "left_ear", "right_ear", "tail")


@pytest.mark.parametrize("skeleton", [None, [], "", 0, {}])
def test_no_limbs(skeleton: Any) -> None:
    assert read_limbs(skeleton, NAMES) == ((), [])


@pytest.mark.parametrize(
    ("skeleton", "limbs"),
    [
        ([[1, 2], [4, 1]], ((0, 1), (3, 0))),
        ([["nose", "tail"], [" nose ", "left_ear"]], ((0, 3), (0, 1))),
        ([["nose", "tail"], [1, 2]], ((0, 3), (0, 1))),
        ([[1, 2], [2, 3]], ((0, 1), (1, 2))),  # from 0 without a 0 cannot be seen
    ],
)
def test_limbs_that_fit(skeleton: Any, limbs: tuple) -> None:
    assert read_limbs(skeleton, NAMES) == (limbs, [])


def test_limbs_from_0() -> None:
    limbs, notes = read_limbs([[0, 1], [0, 3], ["tail", "nose"]], NAMES)
    assert limbs == ((0, 1), (0, 3), (3, 0))
    assert notes == ["limbs contain keypoint 0 and are read as counted from 0"]


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        ([6, 4], "[6, 4]"),
        ([5, 1], "[5, 1]"),
        ([0, 4], "[0, 4]"),  # neither from 0 nor from 1
        ([-1, 2], "[-1, 2]"),
        ([1, 1], "[1, 1]"),
        ([0, 0], "[0, 0]"),
        ([1], "[1]"),
        ([1, 2, 3], "[1, 2, 3]"),
        ([1, "tail"], "[1, 'tail']"),
        (["tail", "leg"], "['tail', 'leg']"),
        (["tail", " tail"], "['tail', ' tail']"),
        ([True, 2], "[True, 2]"),
        ([1.5, 2], "[1.5, 2]"),
        ([None, None], "[None, None]"),
        ([[1], [2]], "[[1], [2]]"),
        (7, "7"),
        ("1-2", "'1-2'"),
    ],
)
def test_limbs_that_do_not_fit_are_left_out(bad: Any, shown: str) -> None:
    limbs, notes = read_limbs([[1, 2], bad, [3, 4]], NAMES)
    assert limbs == ((0, 1), (2, 3))
    assert notes == [f"left out 1 of 3 limbs, which are not two of its 4 keypoints; first: {shown}"]


@pytest.mark.parametrize("skeleton", ["1-2", {"a": 1}, 5])
def test_a_skeleton_that_is_no_list_is_left_out(skeleton: Any) -> None:
    limbs, (note,) = read_limbs(skeleton, NAMES)
    assert limbs == ()
    assert note.startswith("left out 1 of 1 limbs")


def test_cocos_limbs_beside_14_names() -> None:
    """As CrowdPose's own file has them."""
    listed = [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13]]
    limbs, (note,) = read_limbs(listed, [f"k{i}" for i in range(14)])
    assert limbs == ((13, 11), (11, 12))
    assert "left out 3 of 5 limbs" in note
    assert "first: [16, 14]" in note


ENDS = st.integers(-1, 6) | st.sampled_from([*NAMES, "leg", True, None, 1.0])


@given(st.lists(st.lists(ENDS, max_size=3) | ENDS, max_size=5))
def test_each_limb_is_read_as_it_fits_or_told(skeleton: list[Any]) -> None:
    limbs, notes = read_limbs(skeleton, NAMES)
    pairs = [one for one in skeleton if isinstance(one, list) and len(one) == 2]
    numbers = [one for one in pairs if {*map(type, one)} == {int} and one[0] != one[1]]
    ends = {end for one in numbers for end in one}
    from_0 = 0 in ends and ends <= {0, 1, 2, 3}
    index = {name: k for k, name in enumerate(NAMES)}
    expected = []
    for one in pairs:
        if one in numbers:
            expected.append(tuple(end - (not from_0) for end in one))
        elif {*map(type, one)} == {str}:
            expected.append(tuple(index.get(end, -1) for end in one))
    good = tuple(one for one in expected if {*one} <= {0, 1, 2, 3} and one[0] != one[1])
    assert limbs == good
    assert len(notes) == from_0 + (len(good) < len(skeleton))
