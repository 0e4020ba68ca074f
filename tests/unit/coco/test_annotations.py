"""Annotation files: valid ones are read, each kind of invalid record is named."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pose.coco.annotations import by_image, read_annotations, read_unannotated
from pose.coco.decode import decode_image
from pose.coco.files import coco_files
from pose.coco.images import BadImageError, Images
from pose.common.errors import PoseError
from sections import DEFAULT, changed
from tiny_coco import SPLIT, TinyCoco

NAME = f"person_keypoints_{SPLIT}.json"
KEYPOINTS = [10.0, 20.0, 2] * 17


def test_persons_are_sorted_by_image_without_crowds_and_other_categories(
    tiny_coco: TinyCoco,
) -> None:
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    assert [p.ann_id for p in found.persons] == [11, 12, 13, 14, 15, 16]
    assert [p.num_keypoints for p in found.persons] == [17, 0, 17, 8, 17, 12]
    assert {a["id"] for a in found.annotations} == {11, 12, 13, 14, 15, 16, 17}
    assert not found.bad
    first = found.persons[0]
    assert first.bbox_xywh == (30, 10, 50, 100)
    assert first.image_wh == (160, 120)
    assert first.keypoints.shape == (17, 3)
    assert [[p.ann_id for p in group] for group in by_image(found.persons)] == [
        [11, 12],
        [13, 14],
        [15, 16],
    ]


def test_annotations_of_other_categories_are_counted(tiny_coco: TinyCoco) -> None:
    tiny_coco.raw["annotations"] += [{"category_id": 2}, {"category_id": "2"}]
    tiny_coco.save()
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    assert found.other_categories == {"dog": 3}
    assert len(found.persons) == 6


def test_several_categories_are_read_as_one(tiny_coco: TinyCoco) -> None:
    person = tiny_coco.raw["categories"][0]
    tiny_coco.raw["categories"].append({**person, "id": 5, "name": "child"})
    tiny_coco.raw["annotations"][1]["category_id"] = 5
    tiny_coco.save()
    for wanted in ("all", ("person", "child")):
        data = changed(DEFAULT.data, category=wanted)
        found = read_annotations(coco_files(tiny_coco.root, SPLIT), data, None)
        assert [p.ann_id for p in found.persons] == [11, 12, 13, 14, 15, 16]
        assert found.other_categories == {"dog": 1}


def test_a_box_outside_the_image_stays_in_the_annotations_only(tiny_coco: TinyCoco) -> None:
    tiny_coco.raw["annotations"][1]["bbox"] = [300, 10, 50, 100]
    tiny_coco.save()
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    assert 11 not in {p.ann_id for p in found.persons}
    assert 11 in {a["id"] for a in found.annotations}
    assert (found.outside, found.bad) == (1, [])


def add_unannotated(coco: TinyCoco, split: str = "test-dev2017") -> None:
    """Add a split like COCO's test-dev: only a list of images, which are in test2017."""
    path = coco.root / "annotations" / f"image_info_{split}.json"
    path.write_text(json.dumps({"images": coco.raw["images"], "categories": []}))
    (coco.root / "test2017").symlink_to(coco.root / SPLIT)


def test_a_split_without_annotations_has_only_images(tiny_coco: TinyCoco) -> None:
    add_unannotated(tiny_coco)
    category = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).category
    files = coco_files(tiny_coco.root, "test-dev2017")
    assert not files.annotated
    found = read_unannotated(files, category)
    assert [image["id"] for image in found.images] == [1, 2, 3]
    assert (found.persons, found.annotations, found.annotated) == ([], [], False)
    assert found.category is category
    name = tiny_coco.raw["images"][0]["file_name"]
    assert (
        Images(coco_files(tiny_coco.root, "test-dev2017")).read(name)
        == tiny_coco.image_path(1).read_bytes()
    )


def test_by_image_of_no_persons() -> None:
    assert list(by_image([])) == []


def test_zips_and_folders_give_the_same(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    zipped = tiny_coco.zipped(tmp_path / "zips")
    plain, packed = (
        read_annotations(coco_files(root, SPLIT), DEFAULT.data, None)
        for root in (tiny_coco.root, zipped)
    )
    assert plain.annotations == packed.annotations
    with (
        Images(coco_files(tiny_coco.root, SPLIT)) as loose,
        Images(coco_files(zipped, SPLIT)) as archive,
    ):
        name = plain.persons[0].file_name
        assert loose.read(name) == archive.read(name) == tiny_coco.image_path(1).read_bytes()
        for images in (loose, archive):
            with pytest.raises(BadImageError, match="named in the annotations but absent"):
                images.read("no.jpg")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keypoints": []}, "has 0 numbers in 'keypoints', expected 51 (17 x 3)"),
        ({"keypoints": KEYPOINTS[:48]}, "has 48 numbers in 'keypoints', expected 51 (17 x 3)"),
        ({"keypoints": None}, "has no list in 'keypoints', expected 51 (17 x 3)"),
        (
            {"keypoints": [math.nan, *KEYPOINTS[1:]]},
            "has a keypoint that is not a finite number: nan of 'nose'",
        ),
        (
            {"keypoints": ["1", *KEYPOINTS[1:]]},
            "has a keypoint that is not a finite number: '1' (text) of 'nose'",
        ),
        (
            {"keypoints": [*KEYPOINTS[:-1], 3]},
            "has a visibility other than 0, 1, 2: 3 of 'right_ankle'",
        ),
        ({"bbox": [1, 2, 0, 9]}, "has a box without width or height: 0 x 9 pixels"),
        ({"bbox": [1, 2, 9, -1]}, "has a box without width or height: 9 x -1 pixels"),
        ({"bbox": [1, 2, 3]}, "has no valid 'bbox': [1, 2, 3], expected 4 finite numbers"),
        (
            {"bbox": [1, 2, 3, math.inf]},
            "has no valid 'bbox': [1, 2, 3, inf], expected 4 finite numbers",
        ),
        ({"area": None}, "has no 'area'"),
        ({"area": -1}, "has no valid 'area': -1, expected a number from 0"),
        ({"image_id": 99}, "names an image that is not in 'images': 99"),
    ],
)
def test_an_invalid_annotation_is_left_out_and_named(tiny_coco: TinyCoco, change, reason) -> None:
    tiny_coco.raw["annotations"][1].update(change)
    tiny_coco.save()
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    assert [str(record) for record in found.bad] == [f"{NAME}: annotation 11 {reason}"]
    assert [p.ann_id for p in found.persons] == [12, 13, 14, 15, 16]
    assert 11 not in {a["id"] for a in found.annotations}


def test_an_annotation_without_id(tiny_coco: TinyCoco) -> None:
    """If all others have one it is a bad record; if none has, they are numbered."""
    del tiny_coco.raw["annotations"][1]["id"]
    tiny_coco.save()
    (record,) = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).bad
    assert str(record) == f"{NAME}: annotation at index 1 has no integer 'id'"
    before = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons
    for annotation in tiny_coco.raw["annotations"]:
        annotation.pop("id", None)
    tiny_coco.save()
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    assert not found.bad
    assert len(found.persons) == len(before) + 1
    count = len(tiny_coco.raw["annotations"])
    line = f"{NAME}: none of {count} annotations has an id; numbered in their order"
    assert line in found.warnings
    assert {a["id"] for a in found.annotations} <= set(range(1, count + 1))


@pytest.mark.parametrize("keypoints", [None, [], ...])
@pytest.mark.parametrize("count", [0, None, ...])
def test_a_person_with_a_box_only(tiny_coco: TinyCoco, keypoints: Any, count: Any) -> None:
    annotation = tiny_coco.raw["annotations"][1]
    for key, value in (("keypoints", keypoints), ("num_keypoints", count)):
        del annotation[key]
        if value is not ...:
            annotation[key] = value
    tiny_coco.save()
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    assert not found.bad
    (person,) = (person for person in found.persons if person.ann_id == annotation["id"])
    assert person.num_keypoints == 0
    assert not person.keypoints.any()
    what = "keypoints is absent, null or empty in 1 of 7 annotations"
    assert f"{NAME}: {what}; read as people with a box only" in found.warnings


def read_error(root: Path) -> str:
    with pytest.raises(PoseError) as caught:
        read_annotations(coco_files(root, SPLIT), DEFAULT.data, None)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_json(tiny_coco: TinyCoco, keep: int) -> None:
    tiny_coco.json_path.write_bytes(tiny_coco.json_path.read_bytes()[:keep])
    found = read_error(tiny_coco.root)
    assert found.startswith(f"{NAME}: not valid JSON (")
    assert found.endswith("; the file ends before the JSON does: copy or download it again")


def test_json_without_its_lists(tiny_coco: TinyCoco) -> None:
    del tiny_coco.raw["categories"]
    tiny_coco.save()
    expected = f"{NAME}: expected a list under 'categories'; is it a COCO keypoint file?"
    assert read_error(tiny_coco.root) == expected


def test_no_files(tmp_path: Path) -> None:
    found = read_error(tmp_path)
    assert str(tmp_path / "annotations" / NAME) in found
    assert str(tmp_path / "annotations_trainval2017.zip") in found


def test_a_file_that_is_not_a_zip(tmp_path: Path) -> None:
    (tmp_path / "annotations_trainval2017.zip").write_bytes(b"<html>")
    assert read_error(tmp_path).endswith("File is not a zip file; download it again")


def test_a_zip_without_the_split(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "annotations_trainval2017.zip", "w"):
        pass
    assert f"annotations_trainval2017.zip with annotations/{NAME} exists" in read_error(tmp_path)


@pytest.mark.parametrize(
    "change", [{"file_name": "../1.jpg"}, {"file_name": "/etc/1.jpg"}, {"file_name": ""}]
)
def test_a_file_name_that_leaves_its_folder(tiny_coco: TinyCoco, change) -> None:
    tiny_coco.raw["images"][0].update(change)
    tiny_coco.save()
    expected = (
        f"{NAME}: image 1 has file_name {change['file_name']!r}, expected a path below the split's "
        "folder, such as 1.jpg or video1/1.jpg"
    )
    assert read_error(tiny_coco.root) == expected


@pytest.mark.parametrize("key", ["id", "width", "height"])
def test_an_image_without_its_numbers(tiny_coco: TinyCoco, key: str) -> None:
    del tiny_coco.raw["images"][0][key]
    tiny_coco.save()
    assert f"has no {key}, expected an integer" in read_error(tiny_coco.root)


def test_an_image_of_one_pixel_has_no_persons(tiny_coco: TinyCoco) -> None:
    tiny_coco.raw["images"][0].update(width=1, height=1)
    tiny_coco.image_path(1).write_bytes(
        cv2.imencode(".jpg", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    )
    tiny_coco.save()
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    assert found.outside == 2
    assert decode_image(tiny_coco.image_path(1).read_bytes(), (1, 1))[0].shape == (1, 1, 3)
