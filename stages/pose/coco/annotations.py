"""Read and check COCO annotation files, from COCO's zips or from folders, without extracting."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose.coco.bad_records import BadRecord, InvalidRecordError, bad_annotation
from pose.coco.boxes import clip_bbox
from pose.coco.category import Category, read_category
from pose.coco.files import SplitFiles
from pose.coco.image_entries import read_image_entries
from pose.coco.images import open_zip, read_member
from pose.coco.parts import require_parts
from pose.coco.plausibility import findings, people
from pose.coco.records import Reader
from pose.coco.values import read_integer
from pose.common.errors import PoseError
from pose.common.files import BAD_ZIP, parse_json
from pose.common.params import Data

MAX_JSON_BYTES = 1 << 32  # the largest annotation file of COCO has 0.5 GB


@dataclass(frozen=True)
class Person:
    """One person, annotated or detected.

    bbox_xywh and keypoints (K, 3: x, y, visibility) are in image pixels, area in square pixels. An
    annotated box is clipped to the image; a detected box is unchanged.
    """

    ann_id: int
    image_id: int
    file_name: str
    image_wh: tuple[int, int]
    bbox_xywh: tuple[float, float, float, float]
    area: float
    num_keypoints: int
    keypoints: NDArray[np.float32]
    bbox_score: float = 1.0  # of the detector; 1 for an annotated box


@dataclass(frozen=True)
class Annotations:
    """Checked content of one person_keypoints_*.json; persons exclude crowds, sorted by image.

    outside: number of persons whose box is completely outside the image. They are in annotations,
    and so in COCOeval, but not in persons, as in mmpose. other_categories: number of annotations of
    each category that is not selected, which are left out. annotated: false for a split that has
    only an image_info_*.json (test-dev), with images but no persons.
    """

    name: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    category: Category
    persons: list[Person]
    bad: list[BadRecord]
    outside: int = 0
    warnings: list[str] = field(default_factory=list)
    other_categories: Mapping[str, int] = field(default_factory=dict)
    annotated: bool = True


def read_annotations(files: SplitFiles, data: Data, names: Sequence[str] | None) -> Annotations:
    """Checked annotations of data.category; names as in category.read_category.

    An invalid annotation is left out and added to `bad`. Raises PoseError if the file is invalid.
    """
    name = files.name
    raw = _parse(_annotation_bytes(files), name)
    categories, lines = _with_integer_ids(raw["categories"], name)
    selected = read_category(categories, data.category, names, name)
    images, more = read_image_entries(raw["images"], name)
    images_by_id = {image["id"]: image for image in images}
    require_parts(raw["annotations"], selected.parts, name)
    reader = Reader(images_by_id, _ids(categories), selected.names, data, selected.parts)
    entries, numbered = _with_ids(raw["annotations"], name)
    annotations, bad = [], []
    others: Counter[str] = Counter()
    for index, annotation in enumerate(entries):
        try:
            if (category_id := reader.category_id(annotation)) in selected.ids:
                annotations.append(reader.read(annotation))
            else:
                others[selected.others[category_id]] += 1
        except InvalidRecordError as error:
            bad.append(bad_annotation(name, _label(annotation, index), error))
    lines += [*more, *numbered, *_change_lines(reader.changes, len(annotations), name)]
    lines += [f"{name}: {line}" for line in findings(people(annotations, images_by_id))]
    everyone = [_person(a, images_by_id[a["image_id"]]) for a in annotations if not a["iscrowd"]]
    persons = [person for person in everyone if min(person.bbox_xywh[2:]) > 0]
    persons.sort(key=lambda person: (person.image_id, person.ann_id))
    outside = len(everyone) - len(persons)
    return Annotations(name, images, annotations, selected, persons, bad, outside, lines, others)


def read_unannotated(files: SplitFiles, category: Category) -> Annotations:
    """The images of a split without annotations; category is that of an annotated split."""
    raw = _parse(_annotation_bytes(files), files.name, ("images",))
    images, lines = read_image_entries(raw["images"], files.name)
    return Annotations(files.name, images, [], category, [], [], warnings=lines, annotated=False)


def by_image(persons: list[Person]) -> Iterator[list[Person]]:
    """Groups of persons of one image; persons must be sorted by image."""
    group: list[Person] = []
    for person in persons:
        if group and group[0].image_id != person.image_id:
            yield group
            group = []
        group.append(person)
    if group:
        yield group


def _with_ids(annotations: list[Any], name: str) -> tuple[list[Any], list[str]]:
    """The annotations, numbered from 1 if none of them has an id; a line that says so."""
    if not annotations or any(not isinstance(one, dict) or "id" in one for one in annotations):
        return annotations, []
    line = f"{name}: none of {len(annotations):,} annotations has an id; numbered in their order"
    return [{**one, "id": number} for number, one in enumerate(annotations, 1)], [line]


def _with_integer_ids(categories: list[Any], name: str) -> tuple[list[Any], list[str]]:
    """The categories with integers for ids that are text or floats; a line that says so."""
    changed, count = [], 0
    for entry in categories:
        number = read_integer(entry.get("id")) if isinstance(entry, dict) else None
        is_other = number is not None and type(entry["id"]) is not int
        changed.append({**entry, "id": number} if is_other else entry)
        count += is_other
    line = f"{name}: id is text or a float in {count:,} of {len(categories):,} categories"
    return changed, [f"{line}; read as an integer"] if count else []


def _ids(categories: list[Any]) -> set[int]:
    entries = [entry for entry in categories if isinstance(entry, dict)]
    return {entry["id"] for entry in entries if type(entry.get("id")) is int}


def _label(annotation: Any, index: int) -> str:
    """How messages name an annotation: by its id, or its place in the file."""
    number = annotation.get("id") if isinstance(annotation, dict) else None
    return f"at index {index}" if number is None else reprlib.repr(number)


def _change_lines(changes: Mapping[str, int], total: int, name: str) -> list[str]:
    texts = {
        "ids": "an id is text or a float in {}; read as an integer",
        "keypoints": "keypoints is absent, null or empty in {}; read as people with a box only",
        "area": "area is 0.53 x width x height of the box in {}, by data.area: box",
        "parts": "a part has keypoints though it is not valid in {}; they are left out",
        "num_keypoints": "num_keypoints differs from the labelled keypoints in {}; counted again",
    }
    where = {key: f"{changes[key]:,} of {total:,} annotations" for key in texts}
    return [f"{name}: {text.format(where[key])}" for key, text in texts.items() if changes[key]]


def _person(annotation: dict[str, Any], image: dict[str, Any]) -> Person:
    keypoints = np.array(annotation["keypoints"], dtype=np.float32).reshape(-1, 3)
    image_wh = (image["width"], image["height"])
    bbox = np.array(annotation["bbox"], dtype=np.float64)
    x, y, w, h = clip_bbox(bbox, image_wh).tolist()
    return Person(
        ann_id=annotation["id"],
        image_id=annotation["image_id"],
        file_name=image["file_name"],
        image_wh=image_wh,
        bbox_xywh=(x, y, w, h),
        area=float(annotation["area"]),
        num_keypoints=annotation["num_keypoints"],
        keypoints=keypoints,
    )


def _annotation_bytes(files: SplitFiles) -> bytes:
    if files.member is None:
        return files.annotations.read_bytes()
    with open_zip(files.annotations) as archive:
        try:
            return read_member(archive, files.member, MAX_JSON_BYTES)
        except BAD_ZIP as error:
            raise PoseError(f"{archive.filename}: {error}; download it again") from None


def _parse(
    content: bytes, name: str, keys: tuple[str, ...] = ("images", "annotations", "categories")
) -> dict[str, Any]:
    raw = parse_json(content, name)
    for key in keys:
        if not isinstance(raw, dict) or not isinstance(raw.get(key), list):
            raise PoseError(f"{name}: expected a list under {key!r}; is it a COCO keypoint file?")
    annotations: dict[str, Any] = raw
    return annotations
