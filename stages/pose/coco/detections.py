"""A detector's person boxes, in COCO's results format, as persons without keypoints.

The rules are those of mmpose's base_coco_style_dataset.py (_load_detection_results): the category
alone, every score, each box as it is, over the image's border too. It takes boxes of no extent as
well and then divides by zero; here they are left out and counted.
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
    """Persons sorted by image, then by their place in the file; how many boxes are not theirs."""

    persons: list[Person]
    left_out: dict[str, int]


def read_detections(path: Path, images: list[dict[str, Any]], category: Category) -> Detections:
    """The category's boxes of `images` (COCO's entries); ann_id is a box's place in the file.

    Raises PoseError if the file cannot serve, or holds no person box of these images.
    """
    known = {image["id"]: image for image in images}
    persons = []
    left_out = {"of other categories": 0, "of other images": 0, "without width and height": 0}
    for place, record in enumerate(parse_detections(_content(path), path.name)):
        if reason := _left_out(record, known, category.id):
            left_out[reason] += 1
        else:
            persons.append(_person(place, record, known[record["image_id"]], len(category.names)))
    if not persons:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise PoseError(f"{path}: no person box of the val split ({counts}); is it another's?")
    persons.sort(key=lambda person: (person.image_id, person.ann_id))
    return Detections(persons, left_out)


def parse_detections(content: bytes, name: str) -> list[dict[str, Any]]:
    """The records of a results file. Raises PoseError, one line, that counts what cannot serve."""
    records = parse_json(content, name)
    if not isinstance(records, list):
        found = type(records).__name__
        raise PoseError(f"{name}: expected a list of boxes, found {found}; is it COCO results?")
    faults = [(place, fault) for place, one in enumerate(records) if (fault := _fault(one))]
    if faults:
        place, fault = faults[0]
        more = f"; {len(faults)} of {len(records)} records cannot serve" if len(faults) > 1 else ""
        raise PoseError(f"{name}: record {place} {fault}{more}")
    return records


def _fault(record: Any) -> str | None:
    """Why a record cannot serve, or None. Continues a sentence that names it."""
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


def _left_out(record: dict[str, Any], images: dict[int, Any], category_id: int) -> str | None:
    """Why a sound record is nobody's, or None.

    A box with one positive side is kept: the crop's aspect gives it the other.
    """
    if record["category_id"] != category_id:
        return "of other categories"
    if record["image_id"] not in images:
        return "of other images"
    return "without width and height" if max(record["bbox"][2:]) <= 0 else None


def _person(
    place: int, record: dict[str, Any], image: dict[str, Any], num_keypoints: int
) -> Person:
    x, y, w, h = (float(value) for value in record["bbox"])
    return Person(
        ann_id=place,
        image_id=record["image_id"],
        file_name=image["file_name"],
        image_wh=(image["width"], image["height"]),
        bbox_xywh=(x, y, w, h),
        area=0.0,  # of a segmentation, which a detector does not give
        num_keypoints=0,
        keypoints=np.zeros((num_keypoints, 3), np.float32),
        bbox_score=float(record["score"]),
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PoseError(f"{path}: no such file; the stage that makes it has to run first") from None
