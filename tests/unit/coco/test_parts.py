"""COCO-WholeBody's annotation files: parts joined to one list, and each mistake in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pose.coco.annotations import read_annotations
from pose.coco.bad_records import reason_lines
from pose.coco.category import read_category
from pose.coco.files import coco_files
from pose.common.errors import PoseError
from pose.common.skeleton import COCO_17, names_of_parts, whole_body
from pose.common.whole_body import ALL_PARTS, PARTS
from sections import DEFAULT, changed
from tiny_coco import SPLIT, TinyCoco

NAMES = names_of_parts(ALL_PARTS)
FIRST = 11  # id of an annotation with 17 keypoints
NAME = f"person_keypoints_{SPLIT}.json"


def add_parts(tiny_coco: TinyCoco, **first: Any) -> None:
    """Lists and flags for each person, all invalid; `first` are the values of FIRST."""
    for annotation in tiny_coco.raw["annotations"]:
        for part, entry in PARTS.items():
            annotation[f"{part}_kpts"] = [0] * (3 * len(entry.names))
            annotation[f"{part}_valid"] = False
        if annotation["id"] == FIRST:
            annotation |= first
    tiny_coco.save()


def read(tiny_coco: TinyCoco, names: Any = NAMES, **data: Any) -> Any:
    return read_annotations(coco_files(tiny_coco.root, SPLIT), changed(DEFAULT.data, **data), names)


def first_person(tiny_coco: TinyCoco, **data: Any) -> Any:
    (person,) = (one for one in read(tiny_coco, **data).persons if one.ann_id == FIRST)
    return person


def feet(*visibility: float) -> dict[str, Any]:
    points = [value for k, v in enumerate(visibility) for value in (30.0 + k, 90.5, v)]
    return {"foot_kpts": points, "foot_valid": True}


def test_parts_follow_the_body_in_their_order(tiny_coco: TinyCoco) -> None:
    thumb = [0] * 63
    thumb[3:6] = [60, 50, 2]
    add_parts(tiny_coco, **feet(2, 1, 0, 2, 2, 2), righthand_kpts=thumb, righthand_valid=True)
    found = read(tiny_coco)
    assert found.category.names == NAMES
    assert found.category.limbs == whole_body(ALL_PARTS).limbs
    assert found.category.entry["keypoints"] == [*NAMES]
    person = first_person(tiny_coco)
    assert person.num_keypoints == 17 + 5 + 1
    assert person.keypoints[17].tolist() == [30, 90.5, 2]
    assert person.keypoints[18:20, 2].tolist() == [1, 0]
    assert person.keypoints[112 + 1].tolist() == [60, 50, 2]
    assert not found.bad
    assert not found.warnings, "num_keypoints of the file counts the body"


def test_some_parts_alone(tiny_coco: TinyCoco) -> None:
    add_parts(tiny_coco, **feet(2, 2, 2, 2, 2, 2))
    found = read(tiny_coco, names_of_parts(("body", "foot")))
    assert found.persons[0].keypoints.shape == (23, 3)
    assert read(tiny_coco, None).persons[0].keypoints.shape == (17, 3)


def test_visibilities_are_confidences(tiny_coco: TinyCoco) -> None:
    add_parts(tiny_coco, **feet(0.14, 0, 1, 2, 3.5, -0.2))
    assert first_person(tiny_coco).keypoints[17:23, 2].tolist() == [2, 0, 1, 2, 2, 0]


def test_a_threshold_reads_all_lists_alike(tiny_coco: TinyCoco) -> None:
    add_parts(tiny_coco, **feet(0.3, 0.7, 0, 1, 2, -0.2))
    (body,) = (one for one in tiny_coco.raw["annotations"] if one["id"] == FIRST)
    body["keypoints"][2:12:3] = [0.3, 0.7, 0, 1]
    tiny_coco.save()
    visibility = first_person(tiny_coco, visibility_thr=0.5).keypoints[:, 2]
    assert visibility[:4].tolist() == [0, 2, 0, 2]
    assert visibility[17:23].tolist() == [0, 2, 0, 2, 2, 0]


def test_what_is_not_valid_is_not_labelled(tiny_coco: TinyCoco) -> None:
    add_parts(tiny_coco, **feet(2, 2, 2, 2, 2, 2) | {"foot_valid": False})
    found = read(tiny_coco)
    assert first_person(tiny_coco).num_keypoints == 17
    (line,) = found.warnings
    assert line == (
        f"{NAME}: a part has keypoints though it is not valid in 1 of 7 annotations; they are "
        "left out"
    )


def test_flags_may_be_absent(tiny_coco: TinyCoco) -> None:
    add_parts(tiny_coco, **feet(2, 2, 2, 2, 2, 2))
    for annotation in tiny_coco.raw["annotations"]:
        del annotation["foot_valid"]
    tiny_coco.save()
    assert first_person(tiny_coco).num_keypoints == 23


def test_a_crowd_needs_no_parts(tiny_coco: TinyCoco) -> None:
    add_parts(tiny_coco)
    (crowd,) = (one for one in tiny_coco.raw["annotations"] if one.get("iscrowd"))
    del crowd["face_kpts"]
    tiny_coco.save()
    assert not read(tiny_coco).bad


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"foot_kpts": [1, 2, 2]}, "has 3 numbers in 'foot_kpts', expected 18 (6 x 3)"),
        ({"face_kpts": None}, "has no list in 'face_kpts', expected 204 (68 x 3)"),
        ({"lefthand_kpts": "no"}, "has no list in 'lefthand_kpts': 'no' (text), expected 63 (21 x"),
        ({"foot_valid": 1}, "has no valid 'foot_valid': 1, expected true or false"),
        ({"face_valid": "yes"}, "has no valid 'face_valid': 'yes' (text), expected true or false"),
        (
            {"foot_kpts": [1, 2, "2"] * 6},
            "has a visibility that is not a number: '2' (text) of 'le",
        ),
        ({"foot_kpts": [None, 2, 2] * 6}, "has a keypoint that is not a finite number: null of 'l"),
    ],
)
def test_bad_parts(tiny_coco: TinyCoco, change: dict[str, Any], line: str) -> None:
    add_parts(tiny_coco, **change)
    found = read(tiny_coco)
    (text,) = reason_lines(found.bad)
    assert text.startswith(f"{NAME}: annotation {FIRST} {line}")
    assert FIRST not in {person.ann_id for person in found.persons}


def test_a_file_without_a_part(tiny_coco: TinyCoco) -> None:
    """The advice helps: without the part the file is read."""
    add_parts(tiny_coco)
    for annotation in tiny_coco.raw["annotations"]:
        del annotation["face_kpts"]
    tiny_coco.save()
    with pytest.raises(PoseError) as caught:
        read(tiny_coco)
    assert str(caught.value) == (
        f"{NAME}: no annotation has 'face_kpts', which params.yaml: keypoints.parts asks for; set "
        "data.train_annotations and data.val_annotations to COCO-WholeBody's files, or remove face "
        "from keypoints.parts"
    )
    without = tuple(part for part in ALL_PARTS if part != "face")
    assert read(tiny_coco, names_of_parts(without)).persons


def test_a_file_with_133_in_one_list_is_read_as_it_is() -> None:
    joined = {"id": 1, "name": "person", "keypoints": [*NAMES]}
    body = {"id": 1, "name": "person", "keypoints": [*COCO_17.names]}
    assert read_category([joined], "person", NAMES, "x.json").parts == ()
    assert read_category([body], "person", NAMES, "x.json").parts == ALL_PARTS[1:]
    assert read_category([body], "person", None, "x.json").parts == ()


def test_another_body_is_refused() -> None:
    names = [*COCO_17.names]
    names[0] = "snout"
    entry = {"id": 1, "name": "person", "keypoints": names}
    with pytest.raises(PoseError, match=r"^x.json: has 17 keypoints, keypoints.names 133; missing"):
        read_category([entry], "person", NAMES, "x.json")


def test_joined_values_are_the_files(tiny_coco: TinyCoco) -> None:
    rng = np.random.default_rng(0)
    points = {
        f"{part}_kpts": rng.integers(0, 3, 3 * len(e.names)).tolist() for part, e in PARTS.items()
    }
    add_parts(tiny_coco, **points, **{f"{part}_valid": True for part in PARTS})
    joined = np.concatenate([np.reshape(values, (-1, 3)) for values in points.values()])
    assert np.array_equal(first_person(tiny_coco).keypoints[17:], joined)
