"""COCO annotations and images, out of COCO's own zips or out of folders; never extracted."""

from __future__ import annotations

import reprlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from pose.coco.boxes import clip_bbox
from pose.coco.category import Category, read_category
from pose.coco.images import MAX_JSON_BYTES, _member, _open_zip, image_split
from pose.common.errors import PoseError
from pose.common.files import BAD_ZIP, finite_numbers, parse_json

ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
UNLABELLED_SPLIT = "unlabeled2017"
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1


@dataclass(frozen=True)
class Person:
    """One person, annotated or detected; bbox_xywh and keypoints (K, 3: x, y, visibility) in image
    pixels. An annotated box is clipped to the image, a detected one is as the detector gave it.
    """

    ann_id: int
    image_id: int
    file_name: str
    image_wh: tuple[int, int]
    bbox_xywh: tuple[float, float, float, float]
    area: float
    num_keypoints: int
    keypoints: NDArray[np.float32]
    bbox_score: float = 1.0  # of a detector; an annotated box is certain


@dataclass(frozen=True)
class BadRecord:
    """A person or image that was set aside, and why."""

    file: str
    record: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.record} {self.reason}"


@dataclass(frozen=True)
class Annotations:
    """Checked content of one person_keypoints_*.json; persons without crowds, sorted by image.

    outside counts persons that are in annotations, and so in COCOeval, but not in persons: no part
    of their box lies on the image (mmpose leaves them out as well). annotated is false for a split
    that has image_info_*.json alone (test-dev): images, and no persons.
    """

    name: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    category: Category
    persons: list[Person]
    bad: list[BadRecord]
    outside: int = 0
    annotated: bool = True


def read_annotations(
    root: Path, split: str, category: str, names: Sequence[str] | None
) -> Annotations:
    """Checked annotations of a split that are of `category`; names as in category.read_category.

    Raises PoseError if the file itself cannot serve.
    """
    name = f"person_keypoints_{split}.json"
    raw = _parse(_annotation_bytes(root, name), name)
    kind = read_category(raw["categories"], category, names, name)
    images = _checked_images(raw["images"], name)
    known = {image["id"]: image for image in images}
    good, persons, bad, outside = [], [], [], 0
    seen_ids: set[int] = set()
    for place, annotation in enumerate(raw["annotations"]):
        if not isinstance(annotation, dict):
            bad.append(BadRecord(name, f"annotation at place {place}", "has no keys"))
            continue
        if annotation.get("category_id") != kind.id:
            continue
        if reason := annotation_fault(annotation, known, len(kind.names), seen_ids):
            bad.append(BadRecord(name, f"annotation {_shown(annotation.get('id'))}", reason))
            continue
        seen_ids.add(annotation["id"])
        person = _person(annotation, known[annotation["image_id"]])
        annotation.setdefault("iscrowd", 0)  # COCOeval reads both
        annotation.setdefault("num_keypoints", person.num_keypoints)
        good.append(annotation)
        if not annotation["iscrowd"]:
            seen = min(person.bbox_xywh[2:]) > 0
            outside += not seen
            persons += [person] if seen else []
    persons.sort(key=lambda person: (person.image_id, person.ann_id))
    return Annotations(name, images, good, kind, persons, bad, outside)


def is_unannotated(root: Path, split: str) -> bool:
    """Whether a split has image_info_<split>.json alone, as test-dev has."""
    if _is_there(root, f"person_keypoints_{split}.json", ANNOTATIONS_ZIP):
        return False
    return _is_there(root, f"image_info_{split}.json", image_info_zip(split))


def _is_there(root: Path, name: str, zip_name: str) -> bool:
    """Whether an annotation file lies loose or in that zip."""
    path = root / zip_name
    if (root / "annotations" / name).is_file() or not zipfile.is_zipfile(path):
        return (root / "annotations" / name).is_file()
    with zipfile.ZipFile(path) as archive:
        return f"annotations/{name}" in archive.namelist()


def read_unannotated(root: Path, split: str, category: Category) -> Annotations:
    """The images of a split without annotations; its category is that of another."""
    images = read_images(root, split)
    return Annotations(f"image_info_{split}.json", images, [], category, [], [], annotated=False)


def annotation_fault(
    annotation: dict[str, Any], images: dict[int, Any], num_keypoints: int, others: set[int]
) -> str | None:
    """Why an annotation cannot serve, or None. Continues a sentence that names the annotation.

    others: ids of those before it.
    """
    number, image_id = annotation.get("id"), annotation.get("image_id")
    if not _is_whole(number, INT64_MAX):
        return "has no integer 'id'"
    if number in others:
        return "has the 'id' of another"
    if type(image_id) is not int or image_id not in images:
        return f"names image {_shown(image_id)}, which is not in 'images'"
    return (
        _box_fault(annotation)
        or _keypoints_fault(annotation.get("keypoints"), num_keypoints)
        or _count_fault(annotation)
    )


def _count_fault(annotation: dict[str, Any]) -> str | None:
    """COCOeval reads both; where they are absent they are filled in."""
    for key, most in (("iscrowd", 1), ("num_keypoints", INT64_MAX)):
        value = annotation.get(key, 0)
        if not _is_whole(value, most) or value < 0:
            return f"has {key} {_shown(value)}, expected an integer from 0"
    return None


def _is_whole(value: Any, largest: int) -> TypeGuard[int]:
    """Whether value is an integer that the tables can hold."""
    return type(value) is int and abs(value) <= largest


def _shown(value: Any) -> str:
    """A value out of a file, in few characters that can be printed."""
    return reprlib.repr(value)


def _box_fault(annotation: dict[str, Any]) -> str | None:
    bbox: Any = annotation.get("bbox")
    area: Any = annotation.get("area")
    if not finite_numbers(bbox, 4):
        return f"has bbox {_shown(bbox)}, expected 4 finite numbers"
    if bbox[2] <= 0 or bbox[3] <= 0:
        return f"has a box of {bbox[2]} x {bbox[3]} pixels"
    if not finite_numbers([area], 1) or area < 0:
        return f"has area {_shown(area)}, expected a finite number >= 0"
    return None


def _keypoints_fault(keypoints: Any, num_keypoints: int) -> str | None:
    expected = 3 * num_keypoints
    if not isinstance(keypoints, list) or len(keypoints) != expected:
        found = f"{len(keypoints)} numbers" if isinstance(keypoints, list) else "nothing"
        return f"has {found} in 'keypoints', expected {expected} ({num_keypoints} x 3)"
    if not finite_numbers(keypoints, expected):
        return "has a keypoint that is not a finite number"
    if any(visibility not in (0, 1, 2) for visibility in keypoints[2::3]):
        return "has a visibility other than 0, 1, 2"
    return None


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
        num_keypoints=int((keypoints[:, 2] > 0).sum()),
        keypoints=keypoints,
    )


def by_image(persons: list[Person]) -> Iterator[list[Person]]:
    """Runs of persons that share an image; persons must be sorted by image."""
    group: list[Person] = []
    for person in persons:
        if group and group[0].image_id != person.image_id:
            yield group
            group = []
        group.append(person)
    if group:
        yield group


def read_images(root: Path, split: str) -> list[dict[str, Any]]:
    """Entries of the images of a split without annotations (image_info_<split>)."""
    name = f"image_info_{split}.json"
    raw = _parse(_annotation_bytes(root, name, image_info_zip(split)), name, ("images",))
    return _checked_images(raw["images"], name)


def image_info_zip(split: str) -> str:
    """COCO's name of the zip that holds image_info_<split>.json."""
    return f"image_info_{image_split(split)}.zip"


def _annotation_bytes(root: Path, name: str, zip_name: str = ANNOTATIONS_ZIP) -> bytes:
    loose = root / "annotations" / name
    if loose.is_file():
        return loose.read_bytes()
    with _open_zip(root / zip_name, str(loose)) as archive:
        try:
            return _member(archive, f"annotations/{name}", MAX_JSON_BYTES)
        except KeyError:
            raise PoseError(f"{archive.filename}: holds no annotations/{name}") from None
        except BAD_ZIP as error:
            raise PoseError(f"{archive.filename}: {error}; fetch it again") from None


def _parse(
    content: bytes, name: str, keys: tuple[str, ...] = ("images", "annotations", "categories")
) -> dict[str, Any]:
    raw = parse_json(content, name)
    for key in keys:
        if not isinstance(raw, dict) or not isinstance(raw.get(key), list):
            raise PoseError(f"{name}: expected a list under {key!r}; is it a COCO keypoint file?")
    return raw


def _checked_images(images: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    seen_ids: set[int] = set()
    for place, image in enumerate(images):
        if not isinstance(image, dict):
            raise PoseError(f"{name}: image at place {place} has no keys; is it a COCO file?")
        number, file_name = image.get("id"), image.get("file_name")
        sides = (image.get("width"), image.get("height"))
        wide = all(_is_whole(side, INT32_MAX) and side > 0 for side in sides)
        if not _is_whole(number, INT64_MAX) or not wide:
            raise PoseError(f"{name}: image {_shown(number)} lacks an integer id, width or height")
        if not isinstance(file_name, str) or not _is_name(file_name):
            raise PoseError(f"{name}: image {number} has file_name {_shown(file_name)}, not a name")
        if number in seen_ids:
            raise PoseError(f"{name}: two images have the id {number}; leave one")
        seen_ids.add(number)
    return images


def _is_name(text: str) -> bool:
    """Of a file in a folder: no path, nothing that a file system or a log cannot take."""
    return bool(text) and text.isprintable() and Path(text).name == text and text != ".."
