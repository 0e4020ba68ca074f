"""What in a checked annotation file is still no data of COCO's kind: one line for each finding.

Each line says what was seen and how often. A finding in fewer than MIN_SHARE of the people has
no line, except an area of 0: large data sets have a few odd annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose.coco.records import MAX_AREA, MIN_AREA

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
MIN_SHARE = 0.01
MIN_ORIGIN_SHARE = 1e-4  # of the labelled keypoints
MIN_LARGE = 300  # pixels, longer side: of such images, not all people are in the first 100
MANY, MOST = 0.25, 0.5  # shares from which on keypoints, boxes are reported as outside
TOLERANCE = 0.1  # of the box around it, and of the image
OKS_ADVICE = "set data.area: box"
SAME_IMAGE = "check that 'keypoints' and 'bbox' (x, y, width, height) are in pixels of the image"


@dataclass(frozen=True)
class People:
    """Without crowds: bbox_xywh (N, 4), area (N,), keypoints (N, K, 3), image_wh (N, 2)."""

    bbox_xywh: Floats
    area: Floats
    keypoints: Floats
    image_wh: Floats

    @cached_property
    def at_origin(self) -> Bools:
        """(N, K): keypoints that are labelled at exactly 0, 0 or -1, -1."""
        points = self.keypoints[..., :2]
        found: Bools = (points == 0).all(axis=2) | (points == -1).all(axis=2)
        return found & (self.keypoints[..., 2] > 0)

    @cached_property
    def labelled(self) -> Bools:
        """(N, K): labelled keypoints elsewhere."""
        found: Bools = (self.keypoints[..., 2] > 0) & ~self.at_origin
        return found

    def inside(self, first: Floats, last: Floats) -> Bools:
        """(N, K): keypoints between two corners (N, 2)."""
        points = self.keypoints[..., :2]
        found: Bools = np.all((points >= first[:, None]) & (points <= last[:, None]), axis=2)
        return found


def people(annotations: Sequence[Mapping[str, Any]], images: Mapping[int, Any]) -> People:
    """The people among annotations that records.Reader has read."""
    chosen = [one for one in annotations if not one["iscrowd"]]
    sizes = [images[one["image_id"]] for one in chosen]
    keypoints = np.array([one["keypoints"] for one in chosen], np.float64)
    return People(
        bbox_xywh=np.array([one["bbox"] for one in chosen], np.float64).reshape(-1, 4),
        area=np.array([one["area"] for one in chosen], np.float64),
        keypoints=keypoints.reshape(len(chosen), -1, 3) if chosen else np.zeros((0, 1, 3)),
        image_wh=np.array([(i["width"], i["height"]) for i in sizes], np.float64).reshape(-1, 2),
    )


def findings(found: People) -> list[str]:
    """The lines of all findings; none for a file like COCO's."""
    shares = _shares(found)
    corners = [] if shares else _corners(found)
    lines = [*shares, *corners, *_origin(found)]
    if not shares:
        lines += _area(found)
    if not shares and not corners:
        lines += _elsewhere(found)
    return lines


def _area(found: People) -> list[str]:
    """Areas by which OKS, and so AP, are no measure. Only people with keypoints count in OKS."""
    chosen = (found.keypoints[..., 2] > 0).any(axis=1)
    area, box_area = found.area[chosen], found.bbox_xywh[chosen, 2:].prod(axis=1)
    of = f"of {len(area):,} people with keypoints"
    lines = []
    if zeros := int((area == 0).sum()):
        lines.append(
            f"area is 0 in {zeros:,} {of}; OKS divides by area, so a prediction that is one pixel "
            f"off counts as wrong; {OKS_ADVICE}"
        )
    for odd, text, effect in (
        ((area > 0) & (area < MIN_AREA * box_area), f"below {MIN_AREA:.0%} of", "too strict"),
        (area > MAX_AREA * box_area, "above", "too lenient"),
    ):
        if _is_frequent(odd):
            lines.append(
                f"area is {text} width x height of the box in {odd.sum():,} {of}; OKS divides by "
                f"area, so it is {effect}; {OKS_ADVICE}"
            )
    return lines


def _origin(found: People) -> list[str]:
    at_origin, labelled = found.at_origin, found.keypoints[..., 2] > 0
    count, total = int(at_origin.sum()), int(labelled.sum())
    if not count or count < MIN_ORIGIN_SHARE * total:
        return []
    persons, places = int(at_origin.any(axis=1).sum()), np.unique(found.keypoints[at_origin, 0])
    where = " or ".join(f"{place:g}, {place:g}" for place in places[::-1])
    return [
        f"{count:,} of {total:,} labelled keypoints are at exactly {where}, in {persons:,} of "
        f"{len(labelled):,} people; they are trained on and count in AP; where no keypoint is "
        "labelled, visibility must be 0"
    ]


def _shares(found: People) -> list[str]:
    """Boxes or keypoints in fractions of an image that is larger than 2 x 2 pixels."""
    lines = _percent(found)
    large: Bools = found.image_wh.min(axis=1) > 2
    boxes: Bools = large & (found.bbox_xywh >= 0).all(axis=1) & (found.bbox_xywh <= 1).all(axis=1)
    corner = np.zeros_like(found.image_wh)
    outside = found.labelled & ~found.inside(corner, corner + 1)
    points = large & (found.labelled.sum(axis=1) > 1) & ~outside.any(axis=1)
    found_shares = ((boxes, "bbox is"), (points, "all labelled keypoints are"))
    for odd, text in found_shares:
        if _is_frequent(odd):
            lines.append(
                f"{text} within 0..1 in {odd.sum():,} of {len(odd):,} people; expected pixels"
            )
    return lines


def _percent(found: People) -> list[str]:
    """All boxes and keypoints within 0..100, of images that are much larger."""
    count = len(found.bbox_xywh)
    if not count or np.median(found.image_wh.max(axis=1)) <= MIN_LARGE:
        return []
    ends = (found.bbox_xywh[:, :2] + found.bbox_xywh[:, 2:]).max()
    points = found.keypoints[found.labelled][:, :2].max(initial=0)
    if ends <= 1 or max(ends, points) > 100:  # up to 1 they are shares
        return []
    return [
        f"bbox and all labelled keypoints are within 0..100 in {count:,} of {count:,} people; "
        "expected pixels"
    ]


def _corners(found: People) -> list[str]:
    """Boxes that look like x1, y1, x2, y2: as such they hold all keypoints, or as they are they
    end outside the image.
    """
    x_y, w_h = found.bbox_xywh[:, :2], found.bbox_xywh[:, 2:]
    beyond = np.any(x_y + w_h > found.image_wh * (1 + TOLERANCE / 2), axis=1)
    size = w_h - x_y
    margin = np.maximum(TOLERANCE * size, 1)
    holds = ~(found.labelled & ~found.inside(x_y - margin, w_h + margin)).any(axis=1)
    labelled = found.labelled.sum(axis=1) > 1
    smaller = labelled & (size.prod(axis=1) < 0.7 * w_h.prod(axis=1))  # else both readings agree
    fits = smaller & holds & (size > 0).all(axis=1)
    lines = []
    if (
        smaller.sum() > 1
        and fits.sum() > 0.9 * smaller.sum()
        and fits.sum() > MOST * labelled.sum()
    ):
        lines.append(
            f"bbox read as x1, y1, x2, y2 holds all labelled keypoints in {fits.sum():,} of "
            f"{labelled.sum():,} people"
        )
    if beyond.any() and (lines or beyond.mean() > MOST):
        lines.append(
            f"x + width or y + height of bbox exceeds the image in {beyond.sum():,} of "
            f"{len(beyond):,} people"
        )
    return [f"{'; '.join(lines)}; bbox must be x, y, width, height"] if lines else []


def _elsewhere(found: People) -> list[str]:
    """Keypoints of an image of another size, or of another box."""
    total = int(found.labelled.sum())
    x_y, w_h = found.bbox_xywh[:, :2], found.bbox_xywh[:, 2:]
    margin = np.maximum(TOLERANCE * w_h, 1)
    frame = np.ones_like(w_h)
    for first, last, text in (
        (-frame, found.image_wh + frame, "image"),
        (x_y - margin, x_y + w_h + margin, "box"),
    ):
        count = int((found.labelled & ~found.inside(first, last)).sum())
        if count > MANY * total:
            return [
                f"{count:,} of {total:,} labelled keypoints lie outside the {text}; {SAME_IMAGE}"
            ]
    return []


def _is_frequent(odd: Bools) -> bool:
    return bool(odd.any() and odd.mean() >= MIN_SHARE)
