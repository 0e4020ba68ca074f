"""Read and check COCO annotation files, from COCO's zips or from folders, without extracting."""

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
from pose.coco.images import image_split, open_zip, read_member
from pose.common.errors import PoseError
from pose.common.files import BAD_ZIP, finite_numbers, parse_json
from pose.common.params import Data

ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
UNLABELLED_SPLIT = "unlabeled2017"
MAX_JSON_BYTES = 1 << 32  # the largest annotation file of COCO has 0.5 GB
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1


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
class BadRecord:
    """An annotation or image that is left out, and the reason."""

    file: str
    record: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.record} {self.reason}"


@dataclass(frozen=True)
class Annotations:
    """Checked content of one person_keypoints_*.json; persons exclude crowds, sorted by image.

    outside: number of persons whose box is completely outside the image. They are in annotations,
    and so in COCOeval, but not in persons, as in mmpose. annotated: false for a split that has only
    an image_info_*.json (test-dev), with images but no persons.
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
    root: Path, split: str, data: Data, names: Sequence[str] | None
) -> Annotations:
    """Checked annotations of data.category in a split; names as in category.read_category.

    An invalid annotation is left out and added to `bad`. Raises PoseError if the file is invalid.
    """
    name = f"person_keypoints_{split}.json"
    raw = _parse(_annotation_bytes(root, name), name)
    selected = read_category(raw["categories"], str(data.category), names, name)
    images = _checked_images(raw["images"], name)
    images_by_id = {image["id"]: image for image in images}
    annotations, persons, bad, outside = [], [], [], 0
    seen_ids: set[int] = set()
    for index, annotation in enumerate(raw["annotations"]):
        if not isinstance(annotation, dict):
            bad.append(BadRecord(name, f"annotation at index {index}", "is not an object"))
            continue
        if annotation.get("category_id") != selected.id:
            continue
        if reason := annotation_error(annotation, images_by_id, len(selected.names), seen_ids):
            bad.append(BadRecord(name, f"annotation {reprlib.repr(annotation.get('id'))}", reason))
            continue
        seen_ids.add(annotation["id"])
        person = _person(annotation, images_by_id[annotation["image_id"]])
        annotation.setdefault("iscrowd", 0)  # COCOeval reads both
        annotation.setdefault("num_keypoints", person.num_keypoints)
        annotations.append(annotation)
        if not annotation["iscrowd"]:
            inside = min(person.bbox_xywh[2:]) > 0
            outside += not inside
            persons += [person] if inside else []
    persons.sort(key=lambda person: (person.image_id, person.ann_id))
    return Annotations(name, images, annotations, selected, persons, bad, outside)


def is_unannotated(root: Path, split: str) -> bool:
    """Whether a split has only image_info_<split>.json, as test-dev."""
    if _exists(root, f"person_keypoints_{split}.json", ANNOTATIONS_ZIP):
        return False
    return _exists(root, f"image_info_{split}.json", image_info_zip(split))


def read_unannotated(root: Path, split: str, category: Category) -> Annotations:
    """The images of a split without annotations; category is that of an annotated split."""
    images = read_images(root, split)
    return Annotations(f"image_info_{split}.json", images, [], category, [], [], annotated=False)


def read_images(root: Path, split: str) -> list[dict[str, Any]]:
    """Checked `images` entries of image_info_<split>.json, for a split without annotations."""
    name = f"image_info_{split}.json"
    raw = _parse(_annotation_bytes(root, name, image_info_zip(split)), name, ("images",))
    return _checked_images(raw["images"], name)


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


def image_info_zip(split: str) -> str:
    """Name of COCO's zip with image_info_<split>.json."""
    return f"image_info_{image_split(split)}.zip"


def annotation_error(
    annotation: dict[str, Any], images: dict[int, Any], num_keypoints: int, seen_ids: set[int]
) -> str | None:
    """What is invalid, as the end of a sentence that names the annotation; None if it is valid.

    seen_ids: ids of the annotations before it.
    """
    number, image_id = annotation.get("id"), annotation.get("image_id")
    if not _is_integer(number, INT64_MAX):
        return "has no integer 'id'"
    if number in seen_ids:
        return "has the 'id' of another annotation"
    if type(image_id) is not int or image_id not in images:
        return f"names image {reprlib.repr(image_id)}, which is not in 'images'"
    return (
        _box_error(annotation)
        or _keypoints_error(annotation.get("keypoints"), num_keypoints)
        or _count_error(annotation)
    )


def _count_error(annotation: dict[str, Any]) -> str | None:
    """COCOeval reads both keys; read_annotations adds them where they are absent."""
    for key, maximum in (("iscrowd", 1), ("num_keypoints", INT64_MAX)):
        value = annotation.get(key, 0)
        if not _is_integer(value, maximum) or value < 0:
            return f"has {key} {reprlib.repr(value)}, expected an integer from 0"
    return None


def _is_integer(value: Any, maximum: int) -> TypeGuard[int]:
    """Whether value is an integer that fits into the columns of the crop table."""
    return type(value) is int and abs(value) <= maximum


def _box_error(annotation: dict[str, Any]) -> str | None:
    bbox: Any = annotation.get("bbox")
    area: Any = annotation.get("area")
    if not finite_numbers(bbox, 4):
        return f"has bbox {reprlib.repr(bbox)}, expected 4 finite numbers"
    if bbox[2] <= 0 or bbox[3] <= 0:
        return f"has a box of {bbox[2]} x {bbox[3]} pixels"
    if not finite_numbers([area], 1) or area < 0:
        return f"has area {reprlib.repr(area)}, expected a finite number >= 0"
    return None


def _keypoints_error(keypoints: Any, num_keypoints: int) -> str | None:
    expected = 3 * num_keypoints
    if not isinstance(keypoints, list) or len(keypoints) != expected:
        actual = f"{len(keypoints)} numbers" if isinstance(keypoints, list) else "no list"
        return f"has {actual} in 'keypoints', expected {expected} ({num_keypoints} x 3)"
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


def _exists(root: Path, name: str, zip_name: str) -> bool:
    """Whether an annotation file exists in the folder or in the zip."""
    path = root / zip_name
    if (root / "annotations" / name).is_file() or not zipfile.is_zipfile(path):
        return (root / "annotations" / name).is_file()
    with zipfile.ZipFile(path) as archive:
        return f"annotations/{name}" in archive.namelist()


def _annotation_bytes(root: Path, name: str, zip_name: str = ANNOTATIONS_ZIP) -> bytes:
    path = root / "annotations" / name
    if path.is_file():
        return path.read_bytes()
    with open_zip(root / zip_name, str(path)) as archive:
        try:
            return read_member(archive, f"annotations/{name}", MAX_JSON_BYTES)
        except KeyError:
            raise PoseError(
                f"{archive.filename}: has no annotations/{name}; check data.root"
            ) from None
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


def _checked_images(images: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    seen_ids: set[int] = set()
    for index, image in enumerate(images):
        if not isinstance(image, dict):
            raise PoseError(f"{name}: image at index {index} is not an object; is it a COCO file?")
        number, file_name = image.get("id"), image.get("file_name")
        sides = (image.get("width"), image.get("height"))
        has_size = all(_is_integer(side, INT32_MAX) and side > 0 for side in sides)
        if not _is_integer(number, INT64_MAX) or not has_size:
            raise PoseError(
                f"{name}: image {reprlib.repr(number)} has no integer id, width or height"
            )
        if not isinstance(file_name, str) or not _is_file_name(file_name):
            raise PoseError(
                f"{name}: image {number} has file_name {reprlib.repr(file_name)}, expected a name "
                "without a path"
            )
        if number in seen_ids:
            raise PoseError(f"{name}: two images have the id {number}; remove one")
        seen_ids.add(number)
    return images


def _is_file_name(text: str) -> bool:
    """Whether text is a printable file name without a path."""
    return bool(text) and text.isprintable() and Path(text).name == text and text != ".."
