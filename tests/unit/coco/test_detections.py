"""Boxes of a detector: valid records are read unchanged, invalid ones are named in one line."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build_cache
from pose.coco.annotations import Annotations, read_annotations
from pose.coco.category import Category
from pose.coco.detections import Detections, read_detections
from pose.coco.files import SplitFiles, coco_files
from pose.coco.images import Images
from pose.coco.splits import Split
from pose.codecs import geometry
from pose.common.errors import PoseError
from pose.common.skeleton import COCO_17
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings, write_shard
from pose.data.samples import TestSamples
from sections import DEFAULT
from tiny_coco import SPLIT, TinyCoco

IMAGES = [
    {"id": 1, "file_name": "1.jpg", "width": 160, "height": 120},
    {"id": 2, "file_name": "2.jpg", "width": 120, "height": 200},
]

PERSON = Category(1, COCO_17.names, (), {"id": 1, "name": "person"}, frozenset({1}))


def box(image_id: int, bbox: list[float], score: float = 0.5, category_id: int = 1) -> dict:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def read(folder: Path, records: Any) -> Detections:
    path = folder / "detections.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return read_detections(path, IMAGES, PERSON)


def refusal(folder: Path, records: Any) -> str:
    with pytest.raises(PoseError) as caught:
        read(folder, records)
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(f"{folder}/", "")


def test_unlabelled_images_without_boxes_are_named_by_their_split_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "detections.json"
    monkeypatch.setattr(build_cache.stage, "UNLABELLED_DETECTIONS", path)
    files = SplitFiles("unlabeled2017", path, None)
    split = Split(files, Annotations("a.json", IMAGES, [], PERSON, [], []))
    path.write_text(json.dumps([box(3, [1, 2, 3, 4])]), encoding="utf-8")
    with pytest.raises(PoseError) as caught:
        build_cache._unlabelled_persons(DEFAULT, split)
    counts = "0 of other categories, 1 of other images, 0 without width and height"
    assert str(caught.value) == (
        f"{path}: no person box of unlabeled2017 ({counts}); check data.unlabelled_detections"
    )


def test_boxes_of_all_selected_categories_are_used(tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    records = [box(1, [1, 2, 3, 4], category_id=k) for k in (1, 2, 5, 5)]
    path.write_text(json.dumps(records), encoding="utf-8")
    found = read_detections(path, IMAGES, dataclasses.replace(PERSON, ids=frozenset({1, 5})))
    assert [person.ann_id for person in found.persons] == [0, 2, 3]
    assert found.left_out["of other categories"] == 1


def test_persons_are_sorted_by_image_then_by_index(tmp_path: Path) -> None:
    records = [box(2, [1, 2, 3, 4], 0.25), box(1, [5, 6, 7, 8], 1), box(2, [0.5, 2, 3, 4], 0.75)]
    found = read(tmp_path, records)
    assert [(p.image_id, p.ann_id, p.bbox_score) for p in found.persons] == [
        (1, 1, 1.0),
        (2, 0, 0.25),
        (2, 2, 0.75),
    ]
    last = found.persons[2]
    assert last.bbox_xywh == (0.5, 2.0, 3.0, 4.0)
    assert (last.file_name, last.image_wh, last.num_keypoints) == ("2.jpg", (120, 200), 0)
    assert not last.keypoints.any()
    assert set(found.left_out.values()) == {0}


@pytest.mark.parametrize("score", [0.0, 1e-9, 0.01, 3.5, -1])
def test_no_score_is_too_low(tmp_path: Path, score: float) -> None:
    (person,) = read(tmp_path, [box(1, [1, 2, 3, 4], score)]).persons
    assert person.bbox_score == score


@pytest.mark.parametrize(
    "bbox", [[-30.5, -10, 300, 400], [500, 500, 20, 30], [5, 5, 0, 9], [5, 5, 9, -1], [5, 5, -1, 9]]
)
def test_boxes_are_not_changed(tmp_path: Path, bbox: list[float]) -> None:
    """Across the border, outside, with one side of 0, which the crop's aspect ratio fixes."""
    (person,) = read(tmp_path, [box(1, bbox)]).persons
    assert list(person.bbox_xywh) == bbox
    _, scale = geometry.bbox_to_center_scale(np.array(bbox, float), 1.25, (48, 64))
    assert (scale > 0).all()


def test_boxes_of_other_categories_and_images_are_counted(tmp_path: Path) -> None:
    records = [
        box(1, [1, 2, 3, 4]),
        box(1, [1, 2, 3, 4], category_id=2),
        box(1, [1, 2, 3, 4], category_id=0),
        box(99, [1, 2, 3, 4]),
        box(99, [1, 2, 3, 4], category_id=2),
        *[box(2, bbox) for bbox in ([5, 5, 0, 0], [5, 5, -3, -2], [5, 5, 0, -2], [5, 5, -2, 0])],
    ]
    found = read(tmp_path, records)
    assert [person.ann_id for person in found.persons] == [0]
    assert found.left_out == {
        "of other categories": 3,
        "of other images": 1,
        "without width and height": 4,
    }


GOOD = box(1, [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": None}, "has image_id None, expected an integer"),
        ({"image_id": "1"}, "has image_id '1', expected an integer"),
        ({"image_id": 1.0}, "has image_id 1.0, expected an integer"),
        ({"image_id": True}, "has image_id True, expected an integer"),
        ({"category_id": None}, "has category_id None, expected an integer"),
        ({"category_id": "per\nson"}, "has category_id 'per\\nson', expected an integer"),
        ({"bbox": None}, "has bbox None, expected 4 finite numbers"),
        ({"bbox": [1, 2, 3]}, "has bbox [1, 2, 3], expected 4 finite numbers"),
        ({"bbox": [1, 2, 3, 4, 5]}, "has bbox [1, 2, 3, 4, 5], expected 4 finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "has bbox [1, 2, 3, '4'], expected 4 finite numbers"),
        ({"bbox": [1, 2, 3, math.nan]}, "has bbox [1, 2, 3, nan], expected 4 finite numbers"),
        ({"bbox": [-math.inf, 2, 3, 4]}, "has bbox [-inf, 2, 3, 4], expected 4 finite numbers"),
        ({"bbox": [1e39, 2, 3, 4]}, "has bbox [1e+39, 2, 3, 4], expected 4 finite numbers"),
        ({"bbox": [10**400, 2, 3, 4]}, "expected 4 finite numbers"),
        ({"score": None}, "has score None, expected a finite number"),
        ({"score": "high"}, "has score 'high', expected a finite number"),
        ({"score": math.nan}, "has score nan, expected a finite number"),
    ],
)
def test_an_invalid_record_is_named(tmp_path: Path, change: dict, reason: str) -> None:
    found = refusal(tmp_path, [GOOD, GOOD | change, GOOD])
    assert found.startswith("detections.json: record 1 has ")
    assert found.endswith(reason)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_record_without_a_key(tmp_path: Path, key: str) -> None:
    record = {name: value for name, value in GOOD.items() if name != key}
    assert refusal(tmp_path, [record]).startswith(f"detections.json: record 0 has {key} None, ")


def test_invalid_records_are_counted(tmp_path: Path) -> None:
    expected = (
        "detections.json: record 1 is [1, 2], expected image_id, category_id, bbox and score; "
        "3 of 5 records are invalid"
    )
    assert refusal(tmp_path, [GOOD, [1, 2], None, GOOD, {}]) == expected


@pytest.mark.parametrize(("content", "kind"), [({"annotations": []}, "dict"), ("x", "str")])
def test_json_that_is_not_a_list(tmp_path: Path, content: Any, kind: str) -> None:
    expected = f"detections.json: expected a list of boxes, found {kind}; is it COCO results?"
    assert refusal(tmp_path, content) == expected


@pytest.mark.parametrize("content", [b"", b'[{"image_id": 1', b"\xff\xfe\x00", b"<html>"])
def test_invalid_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "detections.json"
    path.write_bytes(content)
    with pytest.raises(
        PoseError, match=r"^detections.json: not valid JSON \(.*(again|UTF-8|there)$"
    ):
        read_detections(path, IMAGES, PERSON)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match="no such file"):
        read_detections(tmp_path / "detections.json", IMAGES, PERSON)


@pytest.mark.parametrize("records", [[], [box(99, [1, 2, 3, 4])], [box(1, [1, 2, 3, 4], 0.5, 2)]])
def test_a_file_for_other_images(tmp_path: Path, records: list) -> None:
    assert "detections.json: no person box of the val split" in refusal(tmp_path, records)


@pytest.mark.parametrize(
    "bbox", [[-20, -10, 90, 200], [900, 900, 40, 80], [5, 5, 0, 60], [1e30, 0, 5, 5]]
)
def test_any_box_can_be_cached_and_cropped(
    tmp_path: Path, tiny_coco: TinyCoco, crop_settings: CropSettings, bbox: list[float]
) -> None:
    images = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).images
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([box(1, bbox, 0.125)]), encoding="utf-8")
    persons = read_detections(path, images, PERSON).persons
    (tmp_path / "d").mkdir()
    images = Images(coco_files(tiny_coco.root, SPLIT))
    assert not write_shard(tmp_path / "d" / "0.arrow", images, persons, crop_settings).bad
    table = CropTable(tmp_path / "d")
    np.testing.assert_array_equal(table.bbox_xywh[0], np.float32(bbox))
    assert table.bbox_score.tolist() == [0.125]
    assert len(table) == 1
    assert not len(table.labelled())
    sample = TestSamples(table, np.arange(1), 1.25, crop_settings.codec)[0]
    assert sample["image"].shape == (64, 48, 3)
    inside = np.all(np.array(bbox[:2]) < (160, 120))
    assert bool(sample["image"].any()) == inside


def test_annotated_boxes_have_score_1_and_are_clipped(tiny_coco: TinyCoco) -> None:
    """As in mmpose's reader; annotation 14 reaches beyond an image of 120 x 200."""
    persons = {
        p.ann_id: p
        for p in read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons
    }
    assert {p.bbox_score for p in persons.values()} == {1.0}
    assert persons[14].bbox_xywh == (60, 90, 59, 109)
