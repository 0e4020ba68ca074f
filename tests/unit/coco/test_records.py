"""One annotation as tools write it: read to the right values, or refused with its value."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from pose.coco.bad_records import InvalidRecordError
from pose.coco.records import Reader
from sections import DEFAULT, changed

NAMES = ("nose", "tail")
IMAGES = {3: {}, 4: {}}
GOOD = {
    "id": 9,
    "image_id": 3,
    "category_id": 1,
    "bbox": [10, 20, 30, 40],
    "area": 600.5,
    "iscrowd": 0,
    "num_keypoints": 2,
    "keypoints": [12.5, 25, 2, 30, 50, 1],
}


def reader(**data: Any) -> Reader:
    return Reader(IMAGES, {1, 2}, NAMES, changed(DEFAULT.data, **data))


def read(change: dict[str, Any], **data: Any) -> dict[str, Any]:
    """The annotation with other values, None: without this key; the input is not changed."""
    annotation = {k: v for k, v in (GOOD | change).items() if v is not ...}
    before = copy.deepcopy(annotation)
    found = reader(**data)
    assert found.category_id(annotation) in (1, 2)
    result = found.read(annotation)
    assert repr(annotation) == repr(before)
    return result


def error(change: dict[str, Any], **data: Any) -> InvalidRecordError:
    with pytest.raises(InvalidRecordError) as caught:
        read(change, **data)
    return caught.value


def test_a_good_annotation_is_unchanged() -> None:
    found = reader()
    assert list(found.read(GOOD).items()) == list(GOOD.items())
    assert not +found.changes


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        ({"id": "9"}, "id", 9),
        ({"image_id": "3"}, "image_id", 3),
        ({"image_id": 4.0}, "image_id", 4),
        ({"category_id": "1"}, "category_id", 1),
        ({"iscrowd": False}, "iscrowd", 0),
        ({"iscrowd": True}, "iscrowd", 1),
        ({"iscrowd": None}, "iscrowd", 0),
        ({"iscrowd": ...}, "iscrowd", 0),
        ({"iscrowd": "1"}, "iscrowd", 1),
        ({"iscrowd": 1.0}, "iscrowd", 1),
        ({"num_keypoints": 0}, "num_keypoints", 2),
        ({"num_keypoints": None}, "num_keypoints", 2),
        ({"num_keypoints": "two"}, "num_keypoints", 2),
        ({"num_keypoints": ...}, "num_keypoints", 2),
        ({"keypoints": [[12.5, 25, 2], [30, 50, 1]]}, "keypoints", GOOD["keypoints"]),
        ({"keypoints": [[1, 2, 0], [None, None, 0]]}, "keypoints", [1, 2, 0, 0, 0, 0]),
        ({"keypoints": [None, math.nan, 0, 3, 4, 1]}, "keypoints", [0, 0, 0, 3, 4, 1]),
        ({"keypoints": [1, 2, 0.0, 3, 4, 2.0]}, "keypoints", [1, 2, 0, 3, 4, 2]),
    ],
)
def test_other_forms_are_read(change: dict[str, Any], key: str, expected: Any) -> None:
    found = read(change)
    assert found[key] == expected
    assert type(found[key]) is type(expected)
    labelled = sum(v > 0 for v in found["keypoints"][2::3])
    assert found["num_keypoints"] == labelled


@pytest.mark.parametrize(
    ("change", "kind", "value"),
    [
        ({"id": None}, "has no integer 'id'", "null"),
        ({"id": ...}, "has no integer 'id'", ""),
        ({"id": "a9"}, "has no integer 'id'", "'a9' (text)"),
        ({"image_id": True}, "has no integer 'image_id'", "true"),
        ({"image_id": "img3"}, "has no integer 'image_id'", "'img3' (text)"),
        ({"image_id": 5}, "names an image that is not in 'images'", "5"),
        ({"category_id": None}, "has no integer 'category_id'", "null"),
        ({"category_id": ...}, "has no integer 'category_id'", ""),
        ({"category_id": False}, "has no integer 'category_id'", "false"),
        ({"category_id": 1.5}, "has no integer 'category_id'", "1.5"),
        ({"category_id": "person"}, "has no integer 'category_id'", "'person' (text)"),
        ({"category_id": 3}, "names a category that is not in 'categories'", "3"),
        ({"bbox": None}, "has no valid 'bbox'", "null"),
        ({"bbox": [1, 2, True, 4]}, "has no valid 'bbox'", "[1, 2, True, 4]"),
        ({"bbox": [1, 2, "3", 4]}, "has no valid 'bbox'", "[1, 2, '3', 4]"),
        ({"bbox": [9, 9, -3, 4]}, "has a box without width or height", "-3 x 4 pixels"),
        ({"area": "600"}, "has no valid 'area'", "'600' (text)"),
        ({"area": math.nan}, "has no valid 'area'", "nan"),
        ({"area": True}, "has no valid 'area'", "true"),
        ({"iscrowd": 2}, "has no valid 'iscrowd'", "2"),
        ({"iscrowd": "no"}, "has no valid 'iscrowd'", "'no' (text)"),
        ({"keypoints": {}}, "has no list in 'keypoints'", "{}"),
        ({"keypoints": [1, 2, 2, 3, 4]}, "has 5 numbers in 'keypoints'", ""),
        (
            {"keypoints": [[1, 2], [3, 4]]},
            "has 2 lists in 'keypoints', the first of 2",
            "",
        ),
        (
            {"keypoints": [None, 2, 1, 3, 4, 2]},
            "has a keypoint that is not a finite number",
            "null of 'nose'",
        ),
        (
            {"keypoints": [1, 2, 2, 3, "4", 0]},
            "has a keypoint that is not a finite number",
            "'4' (text) of 'tail'",
        ),
        (
            {"keypoints": [1, 2, 2, 3, 4, None]},
            "has a visibility that is not a number",
            "null of 'tail'",
        ),
        (
            {"keypoints": [1, 2, True, 3, 4, 2]},
            "has a visibility that is not a number",
            "true of 'nose'",
        ),
        (
            {"keypoints": [1, 2, 2, 3, 4, 0.5]},
            "has a visibility other than 0, 1, 2",
            "0.5 of 'tail'",
        ),
        (
            {"keypoints": [1, 2, -1, 3, 4, 2]},
            "has a visibility other than 0, 1, 2",
            "-1 of 'nose'",
        ),
    ],
)
def test_anything_else_is_refused(change: dict[str, Any], kind: str, value: str) -> None:
    found = error(change)
    assert (found.kind, found.value) == (kind, value)


def test_two_annotations_of_one_id() -> None:
    found = reader()
    found.read(GOOD)
    with pytest.raises(InvalidRecordError, match="has the 'id' of another annotation"):
        found.read(GOOD | {"id": "9"})


def test_confidences_need_a_threshold() -> None:
    keypoints = [1, 2, 0.93, 3, 4, 0.2]
    assert error({"keypoints": keypoints}).advice == "for confidences set data.visibility_thr"
    found = read({"keypoints": keypoints}, visibility_thr=0.3)
    assert (found["keypoints"], found["num_keypoints"]) == ([1, 2, 2, 3, 4, 0], 1)
    assert read({"keypoints": keypoints}, visibility_thr=0.93)["num_keypoints"] == 1
    assert read({"keypoints": [1, 2, -1, None, None, 0]}, visibility_thr=0.1)["num_keypoints"] == 0
    assert read({}, visibility_thr=0.5)["keypoints"] == [12.5, 25, 2, 30, 50, 2]
    assert "not a number" in error({"keypoints": [1, 2, None] * 2}, visibility_thr=0.5).kind


@pytest.mark.parametrize("area", [..., None, math.nan, 0, -1, 1, 0.4, 1321, 1e9, "600", True, []])
def test_area_of_the_box(area: Any) -> None:
    """Where the file's is absent or no plausible share of the box of 1200 square pixels."""
    found = read({"area": area}, area="box")
    assert found["area"] == pytest.approx(0.53 * 1200)


@pytest.mark.parametrize("area", [24, 600.5, 1200, 1319])
def test_a_plausible_area_stays(area: float) -> None:
    assert read({"area": area}, area="box")["area"] == area


@pytest.mark.parametrize("area", [..., None, math.nan, -1, "600"])
def test_the_way_on_without_an_area(area: Any) -> None:
    assert error({"area": area}).advice == "set data.area: box"


def test_changes_are_counted() -> None:
    found = reader(area="box")
    found.read(GOOD)
    found.read(GOOD | {"id": "10", "image_id": "3", "num_keypoints": 5})
    found.read(GOOD | {"id": 11, "area": 0, "num_keypoints": None})
    assert found.changes == {"ids": 1, "area": 1, "num_keypoints": 1}
