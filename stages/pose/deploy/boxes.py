"""Whose pose is wanted: boxes of a picture, from a file of any of three forms, or all of it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose.coco.boxes import clip_bbox
from pose.coco.detections import parse_detections
from pose.coco.images import BadImageError
from pose.common.errors import PoseError
from pose.common.files import finite_numbers, read_json

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Boxes = tuple[Array, Array]  # xywh (N, 4) in image pixels, scores (N,)
Named = tuple[str | int, list[float] | None, float]  # picture, box or none, its score


def whole_image(image: Image) -> Boxes:
    """The picture (H, W, 3) itself as the one box, with a score of 1."""
    height, width = image.shape[:2]
    return np.array([[0.0, 0.0, width, height]]), np.ones(1)


class BoxFile:
    """Boxes by picture, out of a JSON file that is one of

    - {"a.jpg": [[x, y, w, h], ...], ...}: by file name, "clip.mp4/12" is frame 12 from 0,
    - COCO annotations (images, annotations): by file name, clipped to the image, crowds left out,
    - COCO results [{image_id, category_id, bbox, score}, ...]: by the number that is the file's
      name, as in COCO (000000000139.jpg is image 139).

    Raises PoseError, one line, if the file or one of its boxes cannot serve.
    """

    def __init__(self, path: Path, category_id: int) -> None:
        if not path.is_file():
            raise PoseError(f"{path}: no such file; --boxes takes a JSON of boxes")
        raw = read_json(path)
        self._name = path.name
        self._complete = isinstance(raw, dict)  # a detector may find nobody in a picture
        self._found: dict[str | int, list[tuple[list[float], float]]] = {}
        for picture, box, score in _read(raw, path, category_id):
            boxes = self._found.setdefault(picture, [])
            if box is not None:
                boxes.append((box, score))

    def __call__(self, *names: str) -> Boxes:
        """Boxes of the first of the names that the file knows. Raises BadImageError if none."""
        keys: list[str | int] = [key for name in names for key in (name, Path(name).name)]
        keys += [int(stem) for name in names if (stem := Path(name).stem).isdecimal()]
        key = next((key for key in keys if key in self._found), None)
        if key is None and self._complete:
            raise BadImageError(f"is not named in {self._name}")
        found = self._found.get(key, []) if key is not None else []
        boxes = np.array([box for box, _ in found], dtype=np.float64).reshape(-1, 4)
        return boxes, np.array([score for _, score in found], dtype=np.float64)


def _read(raw: Any, path: Path, category_id: int) -> Iterator[Named]:
    if isinstance(raw, list):
        return _of_results(path, category_id)
    if not isinstance(raw, dict):
        raise PoseError(f"{path}: expected boxes by file name, found {reprlib.repr(raw)}")
    if isinstance(raw.get("images"), list) and isinstance(raw.get("annotations"), list):
        return _of_annotations(raw, path, category_id)
    return _by_name(raw, path)


def _by_name(raw: dict[str, Any], path: Path) -> Iterator[Named]:
    for name, boxes in raw.items():
        if not isinstance(boxes, list):
            raise PoseError(f"{path}: {name!r} has {reprlib.repr(boxes)}, expected a list of boxes")
        yield name, None, 0.0
        for place, box in enumerate(boxes):
            yield name, _sound(box, f"{path}: {name!r}, box {place}"), 1.0


def _of_annotations(raw: dict[str, Any], path: Path, category_id: int) -> Iterator[Named]:
    images = {image.get("id"): image for image in raw["images"] if isinstance(image, dict)}
    for image in images.values():
        yield _key(image, "file_name", str, path), None, 0.0
    for one in raw["annotations"]:
        if not isinstance(one, dict):
            raise PoseError(f"{path}: an annotation is {reprlib.repr(one)}, expected an object")
        where = f"{path}: annotation {reprlib.repr(one.get('id'))}"
        if one.get("category_id") != category_id or one.get("iscrowd"):
            continue
        if one.get("image_id") not in images:
            raise PoseError(f"{where} names image {one.get('image_id')}, which is not in 'images'")
        image, box = images[one["image_id"]], _sound(one.get("bbox"), where)
        image_wh = _key(image, "width", int, path), _key(image, "height", int, path)
        clipped = clip_bbox(np.array(box), image_wh).tolist()
        yield image["file_name"], clipped if min(clipped[2:]) > 0 else None, 1.0


def _key(image: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    if type(image.get(key)) is not kind:
        found = reprlib.repr(image.get(key))
        raise PoseError(f"{path}: image {image.get('id')} has {key} {found}; correct it")
    return image[key]


def _of_results(path: Path, category_id: int) -> Iterator[Named]:
    for one in parse_detections(path.read_bytes(), str(path)):
        if one["category_id"] == category_id and max(one["bbox"][2:]) > 0:
            yield one["image_id"], [float(v) for v in one["bbox"]], float(one["score"])


def _sound(box: Any, where: str) -> list[float]:
    if not finite_numbers(box, 4) or min(box[2:]) <= 0:
        raise PoseError(
            f"{where} is {reprlib.repr(box)}, expected 4 finite numbers x, y, width, height, the "
            "last two above 0; correct it"
        )
    return [float(value) for value in box]
