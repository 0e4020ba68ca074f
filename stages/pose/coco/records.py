"""Read one annotation as tools write them: checked, and in the form of COCO's own files.

docs/own_data.md lists what is accepted; anything else raises InvalidRecordError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pose.coco.bad_records import InvalidRecordError
from pose.coco.parts import is_valid, list_key, part_values
from pose.coco.values import is_missing, is_number, read_integer, shown
from pose.common.files import FLOAT32_MAX
from pose.common.params import Data
from pose.common.skeleton import COCO_17
from pose.common.whole_body import PARTS

BOX_AREA = 0.53  # area / (w x h) of a person without an outline, as mmpose takes it
MIN_AREA, MAX_AREA = 0.02, 1.1  # of w x h; outlines are drawn by hand and may exceed the box
IDS = ("id", "image_id", "category_id")


@dataclass
class Reader:
    """Reads the annotations of one file, in their order.

    images: by id. names: of the keypoints. parts: those of keypoints.parts that have lists of
    their own, see parts.py. changes: number of annotations whose ids, area or num_keypoints in the
    file were others than those that are used, without keypoints, or with keypoints of a part that
    is not valid.
    """

    images: Mapping[int, Any]
    category_ids: Collection[int]
    names: Sequence[str]
    data: Data
    parts: Sequence[str] = ()
    changes: Counter[str] = field(default_factory=Counter)
    seen_ids: set[int] = field(default_factory=set)

    def category_id(self, annotation: Any) -> int:
        """Id of the annotation's category, which is one of category_ids."""
        if not isinstance(annotation, dict):
            raise InvalidRecordError("is not an object", shown(annotation))
        number = _integer(annotation, "category_id")
        if number not in self.category_ids:
            raise InvalidRecordError(
                "names a category that is not in 'categories'", shown(annotation["category_id"])
            )
        return number

    def read(self, annotation: dict[str, Any]) -> dict[str, Any]:
        """A copy with integers as ids, iscrowd and num_keypoints, and numbers elsewhere.

        Values that already have COCO's form are unchanged. num_keypoints counts the keypoints with
        a visibility above 0, whatever the file says: COCOeval leaves people with 0 of them out.
        """
        ids = {key: _integer(annotation, key) for key in IDS}
        if ids["id"] in self.seen_ids:
            raise InvalidRecordError("has the 'id' of another annotation")
        if ids["image_id"] not in self.images:
            raise InvalidRecordError(
                "names an image that is not in 'images'", shown(annotation["image_id"])
            )
        bbox = read_bbox(annotation)
        values: dict[str, Any] = {
            "area": read_area(annotation, bbox, self.data.area),
            "keypoints": self._keypoints(annotation),
            "iscrowd": read_iscrowd(annotation),
        }
        values["num_keypoints"] = sum(v > 0 for v in values["keypoints"][2::3])
        self.seen_ids.add(ids["id"])
        read = {**annotation, **ids, **values}
        self._count_changes(annotation, read)
        return read

    def _keypoints(self, annotation: dict[str, Any]) -> list[float]:
        """Those of `keypoints`, and of the parts behind them: 0 in a part that is not valid.

        All are 0 for a person with a box only, whose annotation has no keypoints and counts none.
        """
        if annotation.get("keypoints") in (None, []) and not annotation.get("num_keypoints"):
            self.changes["keypoints"] += 1
            return [0] * (3 * len(self.names))
        if not self.parts:
            return read_keypoints(annotation, self.names, self.data.visibility_thr)
        threshold = self.data.visibility_thr
        keypoints = [*read_keypoints(annotation, COCO_17.names, threshold)]
        invalid = False
        for part in self.parts:
            key, names = list_key(part), PARTS[part].names
            values = {key: part_values(annotation, part, threshold)}
            points = read_keypoints(values, names, threshold, key)
            valid = is_valid(annotation, part)
            invalid |= not valid and any(points[2::3])
            keypoints += points if valid else [0] * len(points)
        self.changes["parts"] += invalid
        return keypoints

    def _count_changes(self, annotation: dict[str, Any], read: dict[str, Any]) -> None:
        stated = annotation.get("num_keypoints")
        if self.parts:  # COCO-WholeBody states those of the body
            stated = None
        self.changes["ids"] += any(type(annotation[key]) is not int for key in IDS)
        self.changes["area"] += annotation.get("area") is not read["area"]
        self.changes["num_keypoints"] += stated is not None and stated != read["num_keypoints"]


def _integer(annotation: dict[str, Any], key: str) -> int:
    value = annotation.get(key)
    number = read_integer(value)
    if number is None:
        raise InvalidRecordError(
            f"has no integer {key!r}", shown(value) if key in annotation else ""
        )
    return number


def read_bbox(annotation: dict[str, Any]) -> list[float]:
    """The annotation's x, y, width, height."""
    bbox: Any = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        value = shown(bbox) if "bbox" in annotation else ""
        raise InvalidRecordError("has no valid 'bbox'", value, "4 finite numbers")
    if min(bbox[2:]) <= 0:
        raise InvalidRecordError(
            "has a box without width or height", f"{shown(bbox[2])} x {shown(bbox[3])} pixels"
        )
    return bbox


def read_area(annotation: dict[str, Any], bbox: Sequence[float], source: str) -> float:
    """The annotation's area in square pixels.

    With `box` as source (data.area), an area that is absent, invalid or no plausible share of the
    box is replaced by BOX_AREA w h.
    """
    area: Any = annotation.get("area")
    box_area = bbox[2] * bbox[3]
    if source == "box" and not (
        is_number(area) and MIN_AREA * box_area <= area <= MAX_AREA * box_area
    ):
        return min(BOX_AREA * box_area, FLOAT32_MAX)
    if area is None:
        raise InvalidRecordError("has no 'area'", advice="set data.area: box")
    if not is_number(area) or area < 0:
        raise InvalidRecordError(
            "has no valid 'area'", shown(area), "a number from 0", "set data.area: box"
        )
    number: float = area
    return number


def read_iscrowd(annotation: dict[str, Any]) -> int:
    """0 or 1, which files also write as false, null or true; 0 if it is absent."""
    value = annotation.get("iscrowd")
    number = int(value) if isinstance(value, bool) else read_integer(value or 0)
    if number not in (0, 1):
        raise InvalidRecordError("has no valid 'iscrowd'", shown(value), "0 or 1")
    return number


def read_keypoints(
    annotation: dict[str, Any],
    names: Sequence[str],
    visibility_thr: float | None,
    key: str = "keypoints",
) -> list[float]:
    """3 K finite numbers x, y, visibility of annotation[key]; visibility is 0, 1 or 2.

    With visibility_thr it is 2 from this value on and 0 below. Missing coordinates (null, NaN) of
    an unlabelled keypoint become 0.
    """
    values = _flat(annotation.get(key), len(names), key)
    is_plain = visibility_thr is None and all(map(is_number, values))
    if is_plain and {*values[2::3]} <= {0, 1, 2}:
        return values
    triples = zip(names, values[::3], values[1::3], values[2::3], strict=True)
    return [number for triple in triples for number in _keypoint(*triple, visibility_thr)]


def _flat(raw: Any, count: int, key: str) -> list[Any]:
    """3 x count values, from a list of them or of (x, y, visibility)."""
    expected = f"{3 * count} ({count} x 3)"
    advice = "for a person with a box only, write num_keypoints 0" if raw in (None, []) else ""
    if not isinstance(raw, list):
        value = "" if raw is None else shown(raw)
        raise InvalidRecordError(f"has no list in {key!r}", value, expected, advice)
    keypoints: list[Any] = raw
    if keypoints and all(isinstance(point, list) for point in keypoints):
        if {len(point) for point in keypoints} != {3} or len(keypoints) != count:
            kind = f"has {len(keypoints)} lists in {key!r}, the first of {len(keypoints[0])}"
            raise InvalidRecordError(kind, "", f"{count} of x, y, visibility")
        keypoints = [value for point in keypoints for value in point]
    if len(keypoints) != 3 * count:
        kind = f"has {len(keypoints)} numbers in {key!r}"
        raise InvalidRecordError(kind, "", expected, advice)
    return keypoints


def _keypoint(
    name: str, x: Any, y: Any, visibility: Any, visibility_thr: float | None
) -> tuple[float, float, float]:
    if not is_number(visibility):
        kind, value = "has a visibility that is not a number", f"{shown(visibility)} of {name!r}"
        raise InvalidRecordError(kind, value)
    if visibility_thr is not None:
        visibility = 2 if visibility >= visibility_thr else 0
    if visibility not in (0, 1, 2):
        value, advice = (
            f"{shown(visibility)} of {name!r}",
            "for confidences set data.visibility_thr",
        )
        raise InvalidRecordError("has a visibility other than 0, 1, 2", value, "", advice)
    if visibility == 0:
        x, y = (0 if is_missing(value) else value for value in (x, y))
    if not is_number(x) or not is_number(y):
        value = f"{shown(y if is_number(x) else x)} of {name!r}"
        raise InvalidRecordError("has a keypoint that is not a finite number", value)
    return x, y, visibility
