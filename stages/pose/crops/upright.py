"""data.orientation: apply: annotations of images as stored are rotated together with the image.

Tools that show the rotated image write its width and height, and coordinates in it. Tools that show
the pixels as stored write the stored width and height. Where both are the same (square images,
EXIF orientations 2, 3 and 4), annotations are taken as those of the rotated image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from pose.coco.annotations import Annotations, Person
from pose.coco.decode import read_note
from pose.coco.images import BadImageError, Images
from pose.coco.orientation import exchanges_sides, upright_bbox, upright_points


def stored_orientations(images: Images, entries: Iterable[dict[str, Any]]) -> dict[int, int]:
    """EXIF orientation by image id, of the images whose annotations are in pixels as stored.

    entries: COCO's `images`. Reads each file; unreadable ones are reported where they are decoded.
    """
    found = {}
    for entry in entries:
        try:
            note = read_note(images.read(entry["file_name"]))
        except BadImageError:
            continue
        wh = entry["width"], entry["height"]
        is_stored = note is not None and note.stored_wh == wh and wh[0] != wh[1]
        if note is not None and is_stored and exchanges_sides(note.orientation):
            found[entry["id"]] = note.orientation
    return found


def upright_images(
    entries: list[dict[str, Any]], orientations: dict[int, int]
) -> list[dict[str, Any]]:
    """COCO's `images` with width and height of the rotated image."""
    return [
        entry | {"width": entry["height"], "height": entry["width"]}
        if entry["id"] in orientations
        else entry
        for entry in entries
    ]


def upright_annotations(split: Annotations, orientations: dict[int, int]) -> Annotations:
    """The split in pixels of the rotated images."""
    stored_wh = {image["id"]: (image["width"], image["height"]) for image in split.images}
    annotations = []
    for one in split.annotations:
        if (number := one["image_id"]) in orientations:
            wh, orientation = stored_wh[number], orientations[number]
            keypoints = np.array(one["keypoints"], dtype=np.float64).reshape(-1, 3)
            turned = _upright_keypoints(keypoints, wh, orientation).reshape(-1).tolist()
            bbox = list(upright_bbox(one["bbox"], wh, orientation))
            one = one | {"bbox": bbox, "keypoints": turned}
        annotations.append(one)
    return replace(
        split,
        images=upright_images(split.images, orientations),
        annotations=annotations,
        persons=upright_persons(split.persons, orientations),
    )


def upright_persons(persons: list[Person], orientations: dict[int, int]) -> list[Person]:
    """The people in pixels of the rotated images; image_wh is that of the stored ones."""
    return [
        _upright_person(person, orientations[person.image_id])
        if person.image_id in orientations
        else person
        for person in persons
    ]


def _upright_person(person: Person, orientation: int) -> Person:
    wh = person.image_wh
    keypoints = _upright_keypoints(person.keypoints, wh, orientation)
    return replace(
        person,
        image_wh=(wh[1], wh[0]),
        bbox_xywh=upright_bbox(person.bbox_xywh, wh, orientation),
        keypoints=keypoints.astype(np.float32),
    )


def _upright_keypoints(keypoints: Any, stored_wh: tuple[int, int], orientation: int) -> Any:
    """Keypoints (K, 3: x, y, visibility); unlabelled ones keep their values."""
    turned = np.array(keypoints)
    labelled = turned[:, 2] > 0
    turned[labelled, :2] = upright_points(turned[labelled, :2], stored_wh, orientation)
    return turned
