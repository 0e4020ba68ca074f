"""Boxes of a picture: from a JSON file of one of three formats, or the whole picture."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose.coco.boxes import clip_bbox
from pose.coco.detections import parse_detections
from pose.coco.images import BadImageError
from pose.coco.values import read_integer
from pose.common.errors import PoseError
from pose.common.files import finite_numbers, read_json

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Boxes = tuple[Array, Array]  # xywh (N, 4) in image pixels, scores (N,)
WH = ("width", "height")
BoxRecord = tuple[str | int, list[float] | None, float]  # file name or image id, xywh, score


def whole_image(image: Image) -> Boxes:
    """One box that covers the picture (H, W, 3), with a score of 1."""
    height, width = image.shape[:2]
    return np.array([[0.0, 0.0, width, height]]), np.ones(1)


class BoxFile:
    """Boxes per picture, read from a JSON file in one of three formats:

    - {"a.jpg": [[x, y, w, h], ...], ...}: by path; "clip.mp4/12" is frame 12, counted from 0,
    - COCO annotations (images, annotations): by file_name, clipped to the image, without crowds,
    - COCO results [{image_id, category_id, bbox, score}, ...]: by image id, which is the number in
      the file name, as in COCO (000000000139.jpg is image 139), or of the frame. Boxes of no size
      are left out: detectors write some.

    COCO's formats have boxes of several categories. Those of others than category_ids are counted
    in `left_out`, by id. Raises PoseError if the file cannot be read, one of its boxes is invalid,
    or no box is left.
    """

    def __init__(self, path: Path, category_ids: Collection[int]) -> None:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise PoseError(f"{path}: {what}; --boxes takes a JSON file of boxes")
        raw = read_json(path)
        self._name = path.name
        self._lists_all = isinstance(raw, dict)  # COCO results omit pictures without detections
        self._boxes: dict[str | int, list[tuple[list[float], float]]] = {}
        self._sizes: dict[str | int, tuple[int, int]] = {}  # of COCO annotations: width, height
        self.left_out: Counter[int] = Counter()
        for picture, box, score in _read(raw, path, category_ids, self.left_out, self._sizes):
            key = _with_slashes(picture)
            boxes = self._boxes.setdefault(key, [])
            if box is not None:
                boxes.append((box, score))
        self._by_name = _by_name(key for key in self._boxes if isinstance(key, str))
        self._sizes = {_with_slashes(key): size for key, size in self._sizes.items()}
        if self.left_out and not any(self._boxes.values()):
            wanted = ", ".join(map(str, sorted(category_ids)))
            raise PoseError(
                f"{path}: no usable box of the model's categories (ids {wanted}); "
                f"{self.left_out_line()}; correct category_id, or give another file"
            )

    def left_out_line(self) -> str:
        """How many boxes of other categories were left out."""
        ids = ", ".join(map(str, sorted(self.left_out)))
        return f"left out {self.left_out.total():,} boxes of other categories (ids {ids})"

    def unlisted_line(self, pictures: Iterable[str]) -> str:
        """A line if COCO results name none of these pictures by their numbers, else ''."""
        numbers = {int(stem) for name in pictures if (stem := Path(name).stem).isdecimal()}
        if self._lists_all or not numbers or numbers & self._boxes.keys():
            return ""
        own, asked = (
            ", ".join(map(str, sorted(ids)[:3])) + (", ..." if len(ids) > 3 else "")
            for ids in (self._boxes.keys(), numbers)
        )
        return f"no image_id ({own}) is the number of a picture ({asked}): no boxes for any of them"

    def __call__(self, image: Image, name: str, frame: int | None = None) -> Boxes:
        """Boxes of a picture (H, W, 3), or of a frame of a video, by its path.

        For COCO results, a picture or frame that is not listed has no boxes. For the other formats
        it raises BadImageError. So does a picture of another size than COCO annotations say, or
        with a box outside it.
        """
        key = self._key(name, frame) if self._lists_all else _number(name, frame)
        width, height = image.shape[1::-1]
        if (size := self._sizes.get(key, (width, height))) != (width, height):
            raise BadImageError(
                f"has {width} x {height} pixels, but {self._name} has boxes for {size[0]} x "
                f"{size[1]}"
            )
        scored = self._boxes.get(key, [])
        boxes = np.array([box for box, _ in scored], dtype=np.float64).reshape(-1, 4)
        require_in_picture(boxes, width, height)
        return boxes, np.array([score for _, score in scored], dtype=np.float64)

    def _key(self, name: str, frame: int | None) -> str:
        """The entry of a picture; of a frame, or else of its video.

        It is the entry that is the longest end of the path, else the only one of that file name.
        """
        tails = [""] if frame is None else [f"/{frame}", ""]
        ends = [end + tail for tail in tails for end in _ends(name)]
        if found := next((end for end in ends if end in self._boxes), None):
            return found
        alike = [self._by_name.get(Path(name).name + tail, []) for tail in tails]
        if only := next((keys[0] for keys in alike if len(keys) == 1), None):
            return only
        count = max(map(len, alike))
        several = f"; {count} entries end in {Path(name).name}, but none of them fits its path"
        what = "" if frame is None else f" for frame {frame}; without people it is []"
        raise BadImageError(f"has no entry in {self._name}{what}{several if count else ''}")


def _ends(name: str) -> list[str]:
    """The absolute path, the path without its first folder, ..., the file name: longest first."""
    parts = Path(name).absolute().as_posix().split("/")
    ends = {"/".join(parts[start:]) for start in range(len(parts))}
    return sorted({name, *ends}, key=len, reverse=True)  # name: for the address of a stream


def require_in_picture(boxes: Array, width: int, height: int) -> None:
    """Raises BadImageError for a box outside the picture, or within its first pixel."""
    for x, y, w, h in boxes.tolist():
        if x >= width or y >= height or x + w <= 0 or y + h <= 0 or max(x + w, y + h) <= 1:
            raise BadImageError(
                f"has {width} x {height} pixels, and a box {[x, y, w, h]} outside of them or in "
                "the first one; expected x, y, width, height in pixels"
            )


def _with_slashes(key: str | int) -> str | int:
    return key.replace("\\", "/") if isinstance(key, str) else key


def _number(name: str, frame: int | None) -> int:
    """The image id by COCO's results: of a frame its number, of a picture that in its name."""
    if frame is not None:
        return frame
    stem = Path(name).stem
    if not stem.isdecimal():
        raise BadImageError("has no image id, which COCO results need: its name is not a number")
    return int(stem)


def _by_name(keys: Iterable[str]) -> dict[str, list[str]]:
    """Entries by the name at their end; those of frames also by the video's name and a number."""
    found: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split("/")
        for end in {parts[-1], "/".join(parts[-2:])}:
            found.setdefault(end, []).append(key)
    return found


def _read(
    raw: Any,
    path: Path,
    category_ids: Collection[int],
    left_out: Counter[int],
    sizes: dict[str | int, tuple[int, int]],
) -> Iterator[BoxRecord]:
    """The records of a file; boxes of other categories are counted in left_out.

    Pictures' width and height are put into sizes where the file states them.
    """
    if isinstance(raw, list):
        return _from_results(path, category_ids, left_out)
    if not isinstance(raw, dict):
        raise PoseError(f"{path}: expected boxes by file name, found {reprlib.repr(raw)}")
    if isinstance(raw.get("images"), list) and isinstance(raw.get("annotations"), list):
        return _from_annotations(raw, path, category_ids, left_out, sizes)
    return _from_names(raw, path)


def _from_names(raw: dict[str, Any], path: Path) -> Iterator[BoxRecord]:
    for name, boxes in raw.items():
        if not isinstance(boxes, list):
            raise PoseError(f"{path}: {name!r} has {reprlib.repr(boxes)}, expected a list of boxes")
        yield name, None, 0.0
        for index, box in enumerate(boxes):
            yield name, _checked_box(box, f"{path}: {name!r}, box {index}"), 1.0


def _from_annotations(
    raw: dict[str, Any],
    path: Path,
    category_ids: Collection[int],
    left_out: Counter[int],
    sizes: dict[str | int, tuple[int, int]],
) -> Iterator[BoxRecord]:
    entries = [image for image in raw["images"] if isinstance(image, dict)]
    images: dict[int, dict[str, Any]] = {}
    for image in entries:
        image_id = _integer(image, "id", f"{path}: an image")
        if image_id in images:
            raise PoseError(f"{path}: two images have the id {image_id}; give each its own")
        images[image_id] = image
    for image in images.values():
        file_name = _image_value(image, "file_name", str, path)
        width, height = (_integer(image, key, f"{path}: image {image['id']}") for key in WH)
        sizes[file_name] = width, height
        yield file_name, None, 0.0
    for annotation in raw["annotations"]:
        if not isinstance(annotation, dict):
            raise PoseError(
                f"{path}: an annotation is {reprlib.repr(annotation)}, expected an object"
            )
        where = f"{path}: annotation {reprlib.repr(annotation.get('id'))}"
        if (category_id := _integer(annotation, "category_id", where)) not in category_ids:
            left_out[category_id] += 1
            continue
        if read_integer(annotation.get("iscrowd") or 0) != 0:  # "0" as text is no crowd
            continue
        if (image_id := _integer(annotation, "image_id", where)) not in images:
            raise PoseError(f"{where} names image {image_id}, which is not in 'images'")
        file_name, box = images[image_id]["file_name"], _checked_box(annotation.get("bbox"), where)
        clipped = clip_bbox(np.array(box), sizes[file_name]).tolist()
        yield file_name, clipped if min(clipped[2:]) > 0 else None, 1.0


def _integer(entry: dict[str, Any], key: str, where: str) -> int:
    """The integer of an entry, also as text; where: how a PoseError names the entry."""
    number = read_integer(entry.get(key))
    if number is None:
        value = reprlib.repr(entry.get(key))
        raise PoseError(f"{where} has {key} {value}, expected an integer; correct it")
    return number


def _image_value(image: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    if type(image.get(key)) is not kind:
        value = reprlib.repr(image.get(key))
        raise PoseError(f"{path}: image {image.get('id')} has {key} {value}; correct it")
    return image[key]


def _from_results(
    path: Path, category_ids: Collection[int], left_out: Counter[int]
) -> Iterator[BoxRecord]:
    for detection in parse_detections(path.read_bytes(), str(path)):
        if detection["category_id"] not in category_ids:
            left_out[detection["category_id"]] += 1
        elif min(detection["bbox"][2:]) > 0:
            yield (
                detection["image_id"],
                [float(v) for v in detection["bbox"]],
                float(detection["score"]),
            )


def _checked_box(box: Any, where: str) -> list[float]:
    if not finite_numbers(box, 4) or min(box[2:]) <= 0:
        raise PoseError(
            f"{where} is {reprlib.repr(box)}, expected 4 finite numbers x, y, width, height, the "
            "last two above 0; correct it"
        )
    return [float(value) for value in box]
