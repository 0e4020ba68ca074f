"""Findings in files that are valid: each kind gives its line with counts, a good file none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pose.coco.plausibility import People, findings, people
from pose.evaluation.coco_metrics import coco_eval

NAMES, COUNT = 4, 20
PLAN = np.array([[0.5, 0.05], [0.1, 0.3], [0.9, 0.3], [0.6, 0.95]])  # of the box


def good(seed: int = 0) -> People:
    """Boxes anywhere in images of 200 x 160, with four keypoints each, one unlabelled."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(20, 60, (COUNT, 2))
    first = rng.uniform(0, 1, (COUNT, 2)) * (np.array([200, 160]) - size)
    points = first[:, None] + PLAN * size[:, None]
    keypoints = np.concatenate([points, np.full((COUNT, NAMES, 1), 2.0)], axis=2)
    keypoints[0, 0] = 0
    bbox = np.concatenate([first, size], axis=1)
    image_wh = np.full((COUNT, 2), (200.0, 160.0))
    return People(bbox, 0.5 * size.prod(axis=1), keypoints, image_wh)


def changed(found: People, **values: Any) -> People:
    return dataclasses.replace(found, **values)


def the_line(found: People) -> str:
    (line,) = findings(found)
    return line


@pytest.mark.parametrize("seed", range(5))
def test_a_good_file(seed: int) -> None:
    assert findings(good(seed)) == []


def test_nobody() -> None:
    assert findings(people([], {})) == []


def test_people_are_without_crowds() -> None:
    one = {"image_id": 5, "bbox": [1, 2, 3, 4], "area": 6, "keypoints": [1, 2, 2], "iscrowd": 0}
    found = people([one, {**one, "iscrowd": 1}], {5: {"width": 9, "height": 8}})
    assert found.bbox_xywh.tolist() == [[1, 2, 3, 4]]
    assert found.keypoints.shape == (1, 1, 3)
    assert (found.area.tolist(), found.image_wh.tolist()) == ([6], [[9, 8]])


def test_area_0() -> None:
    found = good()
    area = found.area.copy()
    area[:3] = 0
    line = the_line(changed(found, area=area))
    assert line.startswith("area is 0 in 3 of 20 people with keypoints; OKS divides by area")
    assert line.endswith("one pixel off counts as wrong; set data.area: box")


@pytest.mark.parametrize("area", [0, 1])
def test_what_the_line_says_of_oks(area: float) -> None:
    """A prediction one pixel off has AP 0 with such an area, and 1 with that of the box."""
    keypoints = np.array([[30.0, 30, 2], [60, 50, 2]])
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 2}
    annotation |= {"bbox": [20, 20, 60, 60], "keypoints": keypoints.ravel().tolist()}
    result = {"image_id": 1, "category_id": 1, "score": 0.9}
    result |= {"keypoints": (keypoints + np.array([1, 0, 0])).ravel().tolist()}
    found = {}
    for key, value in (("file", area), ("box", 0.53 * 3600)):
        truth = {"images": [{"id": 1}], "categories": [{"id": 1}]}
        truth["annotations"] = [{**annotation, "area": value}]
        found[key] = coco_eval(truth, [result], np.full(2, 0.067))["AP"]
    assert found == pytest.approx({"file": 0, "box": 1})


@pytest.mark.parametrize("factor", [1 / (200 * 160), 0.01])
def test_areas_below_their_boxes(factor: float) -> None:
    found = good()
    line = the_line(changed(found, area=found.area * factor))
    assert line.startswith("area is below 2% of width x height of the box in 20 of 20 people with")


@pytest.mark.parametrize("factor", [2.5, 30])
def test_areas_above_their_boxes(factor: float) -> None:
    found = good()
    area = found.area.copy()
    area[:4] *= factor
    line = the_line(changed(found, area=area))
    assert line.startswith("area is above width x height of the box in 4 of 20 people with")


def test_outlines_beyond_the_box() -> None:
    found = good()
    assert findings(changed(found, area=found.area * 2 * 1.05)) == []


def test_only_labelled_people_count() -> None:
    """As in COCOeval."""
    found = good()
    keypoints, area = found.keypoints.copy(), found.area.copy()
    keypoints[1], area[1] = 0, 0
    assert findings(changed(found, keypoints=keypoints, area=area)) == []


@pytest.mark.parametrize("persons", [1, 10, 20])
def test_keypoints_at_the_origin(persons: int) -> None:
    found = good()
    keypoints = found.keypoints.copy()
    keypoints[:persons, 0] = [0, 0, 2]
    keypoints[0, 1] = [0, 0, 1]
    (line,) = findings(changed(found, keypoints=keypoints))
    assert line.startswith(f"{persons + 1} of 80 labelled keypoints are at exactly 0, 0, in")
    assert f"in {persons} of 20 people;" in line


def test_keypoints_at_minus_1() -> None:
    found = good()
    keypoints = found.keypoints.copy()
    keypoints[:3, 0] = [-1, -1, 2]
    line = the_line(changed(found, keypoints=keypoints))
    assert line.startswith("3 of 80 labelled keypoints are at exactly -1, -1, in 3 of 20 people;")


def test_percent_of_images() -> None:
    """All of 20 people in the first 100 pixels of images of 1,000; of images of 200 they may be."""
    found = good()
    percent, scale = np.full((COUNT, 2), (1000.0, 800.0)), 100 / np.tile([200, 160], 2)
    keypoints = found.keypoints * np.array([*scale[:2], 1])
    small = changed(
        found,
        bbox_xywh=found.bbox_xywh * scale,
        area=found.area * scale[:2].prod(),
        keypoints=keypoints,
    )
    assert findings(small) == []
    assert the_line(changed(small, image_wh=percent)) == (
        "bbox and all labelled keypoints are within 0..100 in 20 of 20 people; expected pixels"
    )


def test_shares() -> None:
    """Boxes, keypoints, or both; of both, nothing else is told."""
    found = good()
    shares = found.bbox_xywh / np.tile([200, 160], 2)
    keypoints = found.keypoints / [200, 160, 1]
    boxes = "bbox is within 0..1 in 20 of 20 people; expected pixels"
    points = "all labelled keypoints are within 0..1 in 20 of 20 people; expected pixels"
    assert findings(changed(found, bbox_xywh=shares)) == [boxes]
    assert findings(changed(found, keypoints=keypoints)) == [points]
    assert findings(changed(found, bbox_xywh=shares, keypoints=keypoints)) == [boxes, points]


def test_images_of_a_pixel_have_no_shares() -> None:
    found = good()
    bbox, keypoints = np.full((COUNT, 4), 0.5), found.keypoints * [1 / 200, 1 / 160, 1]
    tiny = People(bbox, np.full(COUNT, 0.1), keypoints, np.ones((COUNT, 2)))
    assert not any("0..1" in line for line in findings(tiny))


@pytest.mark.parametrize("seed", range(5))
def test_boxes_given_as_corners(seed: int) -> None:
    found = good(seed)
    bbox = found.bbox_xywh.copy()
    bbox[:, 2:] += bbox[:, :2]
    line = the_line(changed(found, bbox_xywh=bbox, area=bbox[:, 2:].prod(axis=1) / 2))
    assert line.startswith("bbox read as x1, y1, x2, y2 holds all labelled keypoints in ")
    assert line.endswith("exceeds the image in " + line.split("in ")[-1])
    assert line.endswith("people; bbox must be x, y, width, height")


def test_corners_of_people_without_keypoints() -> None:
    """Only that they end outside the image can be seen."""
    found = good()
    bbox = found.bbox_xywh.copy()
    bbox[:, :2] = [100, 80]
    bbox[:, 2:] += bbox[:, :2]
    keypoints = np.zeros_like(found.keypoints)
    line = the_line(changed(found, bbox_xywh=bbox, keypoints=keypoints))
    assert line == (
        "x + width or y + height of bbox exceeds the image in 20 of 20 people; "
        "bbox must be x, y, width, height"
    )


def test_boxes_at_the_corner_are_no_corners() -> None:
    """A person who fills the image: both readings agree."""
    found = good()
    bbox = np.tile([0.0, 0, 200, 160], (COUNT, 1))
    assert findings(changed(found, bbox_xywh=bbox, area=np.full(COUNT, 16000.0))) == []


def test_keypoints_of_another_size() -> None:
    found = good()
    line = the_line(changed(found, keypoints=found.keypoints * [3, 3, 1]))
    assert "of 79 labelled keypoints lie outside the image; check that 'keypoints' and" in line


@pytest.mark.parametrize("kind", ["half size", "centers", "exchanged"])
def test_keypoints_beside_their_boxes(kind: str) -> None:
    found = good()
    bbox, keypoints = found.bbox_xywh.copy(), found.keypoints.copy()
    if kind == "half size":
        keypoints *= [0.5, 0.5, 1]
    elif kind == "centers":
        bbox[:, :2] += bbox[:, 2:] / 2
    else:
        keypoints = keypoints[..., [1, 0, 2]]
    line = the_line(changed(found, bbox_xywh=bbox, keypoints=keypoints))
    assert "of 79 labelled keypoints lie outside the" in line


def test_a_few_odd_people_of_many() -> None:
    """Less than one in a hundred; COCO has some too."""
    found = good()
    many = People(
        *(np.concatenate([value] * 20) for value in dataclasses.astuple(found)),
    )
    many.area[:3] *= 5
    many.keypoints[:3, :, :2] += 50
    assert findings(many) == []
