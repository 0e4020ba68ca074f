"""The category to train on: the file and params must agree."""

from __future__ import annotations

from typing import Any

import pytest

from pose.coco.category import Category, read_category
from pose.common.errors import PoseError

MOUSE = {"id": 7, "name": "mouse", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
OTHER = {"id": 1, "name": "cage"}


def read(categories: list[Any], names: Any = None) -> Category:
    return read_category(categories, "mouse", names, "x.json")


def test_category_of_a_file() -> None:
    found = read([OTHER, MOUSE])
    assert (found.id, found.names, found.limbs) == (7, ("nose", "tail"), ((0, 1),))
    assert found.entry is MOUSE
    assert read([MOUSE], ("nose", "tail")) == found
    assert read([{**MOUSE, "skeleton": None}]).limbs == ()


def test_names_come_from_params_if_the_file_has_none() -> None:
    bare = {"id": 7, "name": "mouse"}
    assert read([bare], ("a", "b", "c")).names == ("a", "b", "c")
    with pytest.raises(PoseError, match=r"^x.json: category 'mouse' has no 'keypoints'; add"):
        read([bare])


@pytest.mark.parametrize(
    ("categories", "names", "expected"),
    [
        ([], None, "0 categories are named 'mouse', .*; there are: none; set data.category"),
        ([OTHER, "x"], None, "0 categories are named 'mouse', .*; there are: cage; set data.cat"),
        ([MOUSE, MOUSE], None, "2 categories are named 'mouse', expected one"),
        ([{**MOUSE, "id": "7"}], None, "expected one with an integer id"),
        ([{**MOUSE, "keypoints": []}], None, r"has 'keypoints' \[\], expected a list of names"),
        ([{**MOUSE, "keypoints": 5}], None, "has 'keypoints' 5, expected a list of names"),
        (
            [{**MOUSE, "keypoints": ["a", 1]}],
            None,
            "has 'keypoints' with a name that is not printable text",
        ),
        ([{**MOUSE, "keypoints": ["a", "b", "a"]}], None, "'keypoints' with a more than once"),
        ([{"id": 7, "name": "mouse"}], ("a", "a"), "'keypoints' with a more than once"),
        ([{**MOUSE, "skeleton": [[0, 1]]}], None, r"has \[0, 1\] in 'skeleton', .* from 1 to 2"),
        ([{**MOUSE, "skeleton": [[1, 3]]}], None, r"has \[1, 3\] in 'skeleton'"),
        ([{**MOUSE, "skeleton": [[1]]}], None, r"has \[1\] in 'skeleton'"),
        ([MOUSE], ("nose",), "has 2 keypoints, keypoints.names 1; unexpected: tail; make"),
        ([MOUSE], ("nose", "ear"), "missing: ear; unexpected: tail; make them equal"),
        ([MOUSE], ("tail", "nose"), "the order differs: nose, tail; make them equal"),
    ],
)
def test_mistakes(categories: list[Any], names: Any, expected: str) -> None:
    with pytest.raises(PoseError, match=expected) as caught:
        read(categories, names)
    assert str(caught.value).startswith("x.json: ")
    assert "\n" not in str(caught.value)
