"""Read a detector's person boxes from a file in COCO's results format.

The rules are those of mmpose's base_coco_style_dataset.py (_load_detection_results): only
boxes of the selected categories, with every score, and not clipped to the image. mmpose also takes
boxes without width and height and later divides by zero; here they are left out and counted.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pose.coco.annotations import Person
from pose.coco.category import Category
from pose.common.errors import PoseError
from pose.common.files import finite_numbers, parse_json


@dataclass(frozen=True)
class Detections:
    """Persons sorted by image, then by index in the file; number of boxes left out per reason."""

    persons: list[Person]
    left_out: dict[str, int]


def read_detections(
    path: Path,
    images: list[dict[str, Any]],
    category: Category,
    split: str = "the val split",
    key: str = "data.detections",
) -> Detections:
    """The boxes of `category` in `images` (COCO's entries); ann_id is its index in the file.

    split, key: for messages, whose images these are and what in params.yaml names the file.
    Raises PoseError if the file is invalid or has no person box of these images.
    """
    images_by_id = {image["id"]: image for image in images}
    persons = []
    left_out = {"of other categories": 0, "of other images": 0, "without width and height": 0}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PoseError(f"{path}: no such file; run the stage that writes it first") from None
    for index, record in enumerate(parse_detections(content, path.name)):
        if reason := _reason_to_leave_out(record, images_by_id, category.ids):
            left_out[reason] += 1
        else:
            image = images_by_id[record["image_id"]]
            persons.append(_person(index, record, image, len(category.names)))
    if not persons:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise PoseError(f"{path}: no person box of {split} ({counts}); check {key}")
    persons.sort(key=lambda person: (person.image_id, person.ann_id))
    return Detections(persons, left_out)


def parse_detections(content: bytes, name: str) -> list[dict[str, Any]]:
    """The records of a results file. Raises PoseError that names the first invalid record."""
    records = parse_json(content, name)
    if not isinstance(records, list):
        kind = type(records).__name__
        raise PoseError(f"{name}: expected a list of boxes, found {kind}; is it COCO results?")
    errors = [(index, error) for index, r in enumerate(records) if (error := _record_error(r))]
    if errors:
        index, error = errors[0]
        more = f"; {len(errors)} of {len(records)} records are invalid" if len(errors) > 1 else ""
        raise PoseError(f"{name}: record {index} {error}{more}")
    return records


def _record_error(record: Any) -> str | None:
    """What is invalid, as the end of a sentence that names the record; None if it is valid."""
    if not isinstance(record, dict):
        return f"is {reprlib.repr(record)}, expected image_id, category_id, bbox and score"
    for key in ("image_id", "category_id"):
        if type(record.get(key)) is not int:
            return f"has {key} {reprlib.repr(record.get(key))}, expected an integer"
    if not finite_numbers(record.get("bbox"), 4):
        return f"has bbox {reprlib.repr(record.get('bbox'))}, expected 4 finite numbers"
    if not finite_numbers([record.get("score")], 1):
        return f"has score {reprlib.repr(record.get('score'))}, expected a finite number"
    return None


def _reason_to_leave_out(
    record: dict[str, Any], images: dict[int, Any], category_ids: frozenset[int]
) -> str | None:
    """Why a valid record is not one of these persons, or None.

    A box with one positive side is used: the crop's aspect ratio determines the other side.
    """
    if record["category_id"] not in category_ids:
        return "of other categories"
    if record["image_id"] not in images:
        return "of other images"
    return "without width and height" if max(record["bbox"][2:]) <= 0 else None


def _person(
    index: int, record: dict[str, Any], image: dict[str, Any], num_keypoints: int
) -> Person:
    x, y, w, h = (float(value) for value in record["bbox"])
    return Person(
        ann_id=index,
        image_id=record["image_id"],
        file_name=image["file_name"],
        image_wh=(image["width"], image["height"]),
        bbox_xywh=(x, y, w, h),
        area=0.0,  # of the segmentation, which a detector does not provide
        num_keypoints=0,
        keypoints=np.zeros((num_keypoints, 3), np.float32),
        bbox_score=float(record["score"]),
    )
