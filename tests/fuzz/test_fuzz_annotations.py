"""Annotations spoilt in a known way are never accepted silently.

Each is read to the value that was meant, left out and told, or told in a warning.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from fuzz.corrupt import JUNK, fuzz, inputs
from pose.coco.annotations import Annotations, Person, read_annotations
from pose.coco.bad_records import reason_lines
from pose.coco.files import coco_files
from pose.coco.plausibility import findings, people
from pose.common.errors import PoseError
from pose.common.params import Data
from sections import DEFAULT, changed
from tiny_coco import SPLIT, TinyCoco

BOX = changed(DEFAULT.data, area="box")
CONFIDENCES = changed(DEFAULT.data, visibility_thr=0.3)
PERSONS = 6  # annotations of tiny_coco that come first: neither crowds nor of another category


def read(coco: TinyCoco, raw: dict[str, Any], data: Data = DEFAULT.data) -> Annotations:
    coco.json_path.write_text(json.dumps(raw))
    return read_annotations(coco_files(coco.root, SPLIT), data, None)


def read_or_error(coco: TinyCoco, raw: dict[str, Any]) -> Annotations | str:
    try:
        return read(coco, raw)
    except PoseError as error:
        return str(error)


def same(one: Person, other: Person) -> bool:
    """Whether all fields are equal."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Person)]
    return all(np.array_equal(a, b) for a, b in pairs)


# ---------------------------------------------------------------------------------- one value


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 3.4e38


def is_integer(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.removeprefix("-").isdigit()
    return is_number(value) and value == int(value)


def is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


# Values of a key that only a person can tell from the right one.
OTHER_VALUES: dict[str, Callable[[Any], bool]] = {
    "id": is_integer,
    "image_id": lambda value: is_integer(value) and int(value) in (1, 2, 3),
    "category_id": lambda value: is_integer(value) and int(value) in (1, 2),
    "bbox": is_box,
    "area": is_number,
    "iscrowd": lambda value: value in (1, "1", True),
    "num_keypoints": lambda _: False,  # never used
}


@st.composite
def spoilt_key(draw: st.DrawFn) -> tuple[str, Any]:
    key = draw(st.sampled_from(sorted(OTHER_VALUES)))
    texts = st.integers(-3, 30).map(str)
    values = JUNK | texts | st.floats(-3, 30) | st.lists(JUNK, min_size=4, max_size=4)
    return key, draw(values.filter(lambda value: not OTHER_VALUES[key](value)) | st.just(...))


@pytest.mark.parametrize("data", [DEFAULT.data, BOX, CONFIDENCES], ids=["", "box", "confidences"])
@inputs(30, 3000)
def test_a_wrong_value_is_read_right_or_told(
    bounded: Path, tiny_coco: TinyCoco, data: Data, examples: int
) -> None:
    good = copy.deepcopy(tiny_coco.raw)
    right = {person.ann_id: person for person in read(tiny_coco, good, data).persons}

    def check(spoilt: tuple[tuple[str, Any], int]) -> None:
        (key, value), index = spoilt
        raw = copy.deepcopy(good)
        annotation = raw["annotations"][index]
        number = annotation["id"]
        annotation.pop(key) if value is ... else annotation.update({key: value})
        found = read(tiny_coco, raw, data)
        persons = {person.ann_id: person for person in found.persons}
        (others := right.copy()).pop(number)
        assert all(same(persons[other], others[other]) for other in others)
        read_right = number in persons and same(persons[number], right[number])
        derived = data.area == "box" and any("area is 0.53" in line for line in found.warnings)
        assert read_right or derived or len(reason_lines(found.bad)) == 1, (key, value)

    fuzz(examples, st.tuples(spoilt_key(), st.integers(0, PERSONS - 1)), check)


@pytest.mark.parametrize("data", [DEFAULT.data, CONFIDENCES], ids=["", "confidences"])
@inputs(30, 3000)
def test_a_wrong_keypoint_is_read_right_or_told(
    bounded: Path, tiny_coco: TinyCoco, data: Data, examples: int
) -> None:
    """Of person 11, all of whose keypoints are labelled."""
    good = copy.deepcopy(tiny_coco.raw)
    place = next(i for i, one in enumerate(good["annotations"]) if one["id"] == 11)

    def check(spoilt: tuple[Any, int]) -> None:
        value, index = spoilt
        raw = copy.deepcopy(good)
        raw["annotations"][place]["keypoints"][index] = value
        found = read(tiny_coco, raw, data)
        is_visibility, is_told = index % 3 == 2, len(found.bad) == 1
        if not is_number(value):
            assert is_told
        elif is_visibility and data.visibility_thr is not None:
            keypoints = next(p.keypoints for p in found.persons if p.ann_id == 11)
            assert keypoints[index // 3, 2] == (2 if value >= data.visibility_thr else 0)
        elif is_visibility:
            assert is_told == (value not in (0, 1, 2))
        else:
            assert not is_told

    values = JUNK | st.floats(0, 1) | st.sampled_from([3, -1, 2.0, None])
    fuzz(examples, st.tuples(values, st.integers(0, 50)), check)


# ---------------------------------------------------------------------------------- other forms


def nested(one: dict[str, Any]) -> None:
    one["keypoints"] = [one["keypoints"][i : i + 3] for i in range(0, 51, 3)]


def null_where_unlabelled(one: dict[str, Any]) -> None:
    values = one["keypoints"]
    for k in range(17):
        if values[3 * k + 2] == 0:
            values[3 * k : 3 * k + 2] = [None, math.nan]


def ids_as_text(one: dict[str, Any]) -> None:
    one.update({key: str(int(one[key])) for key in ("id", "image_id", "category_id")})


def ids_as_floats(one: dict[str, Any]) -> None:
    one.update({key: float(one[key]) for key in ("id", "image_id", "category_id")})


def crowds_as_booleans(one: dict[str, Any]) -> None:
    one["iscrowd"] = bool(one["iscrowd"])


def crowds_as_null(one: dict[str, Any]) -> None:
    one["iscrowd"] = one["iscrowd"] or None


def wrong_counts(one: dict[str, Any]) -> None:
    one["num_keypoints"] = 5 - one["num_keypoints"]


FORMS = [  # in the order in which they are applied
    wrong_counts,
    null_where_unlabelled,
    nested,
    ids_as_floats,
    ids_as_text,
    crowds_as_booleans,
    crowds_as_null,
]


@inputs(20, 1000)
def test_other_forms_are_read_alike(bounded: Path, tiny_coco: TinyCoco, examples: int) -> None:
    """In any mixture, down to what COCOeval reads."""
    good = copy.deepcopy(tiny_coco.raw)
    right = read(tiny_coco, good)

    def check(forms: list[list[Callable[[dict[str, Any]], None]]]) -> None:
        raw = copy.deepcopy(good)
        for one, changes in zip(raw["annotations"], forms, strict=False):
            for change in sorted(changes, key=FORMS.index):
                change(one)
        found = read(tiny_coco, raw)
        assert not found.bad
        assert found.annotations == right.annotations
        assert all(same(*pair) for pair in zip(found.persons, right.persons, strict=True))

    some = st.lists(st.sampled_from(FORMS), unique=True)
    fuzz(examples, st.lists(some, min_size=PERSONS + 1, max_size=PERSONS + 1), check)


@inputs(30, 2000)
def test_file_names_stay_below_their_folder(
    bounded: Path, tiny_coco: TinyCoco, examples: int
) -> None:
    parts = st.sampled_from(["a", "b c", "..", ".", "", "C:", "ü", "\n", "1.jpg", "a\0"])
    separators = st.sampled_from(["/", "\\", "//"])

    def check(pieces: tuple[list[str], str]) -> None:
        raw = copy.deepcopy(tiny_coco.raw)
        raw["images"][0]["file_name"] = pieces[1].join(pieces[0])
        found = read_or_error(tiny_coco, raw)
        if isinstance(found, str):
            assert "file_name" in found
            return
        name = found.images[0]["file_name"]
        root = tiny_coco.root.resolve()
        assert (root / name).resolve().is_relative_to(root)
        assert (root / name).resolve() != root
        assert "\\" not in name
        assert ("\\" in raw["images"][0]["file_name"]) == any("\\" in w for w in found.warnings)

    fuzz(examples, st.tuples(st.lists(parts, min_size=1, max_size=4), separators), check)


# ---------------------------------------------------------------------------------- whole files

Raw = tuple[list[dict[str, Any]], dict[int, Any]]
WIDTH, HEIGHT = 300, 240


def a_set(seed: int, count: int) -> Raw:
    """Annotations of people anywhere in their images, and the images."""
    rng = np.random.default_rng(seed)
    annotations = []
    for number in range(count):
        w, h = rng.uniform(20, 90, 2)
        x, y = rng.uniform(0.3 * w, WIDTH - w), rng.uniform(0.3 * h, HEIGHT - h)
        unit = rng.uniform(0.02, 0.98, (8, 2))
        unit[:2] = [0.03, 0.04], [0.96, 0.97]
        keypoints = np.column_stack([unit * (w, h) + (x, y), rng.integers(1, 3, 8)])
        one = {"image_id": number, "bbox": [x, y, w, h], "area": rng.uniform(0.2, 0.9) * w * h}
        annotations.append(one | {"keypoints": keypoints.ravel().tolist(), "iscrowd": 0})
    return annotations, {i: {"width": WIDTH, "height": HEIGHT} for i in range(count)}


def corners(one: dict[str, Any]) -> None:
    x, y, w, h = one["bbox"]
    one["bbox"] = [x, y, x + w, y + h]


def centers(one: dict[str, Any]) -> None:
    x, y, w, h = one["bbox"]
    one["bbox"] = [x + w / 2, y + h / 2, w, h]


def shares(one: dict[str, Any]) -> None:
    scale = np.array([WIDTH, HEIGHT, 1.0])
    one["keypoints"] = (np.array(one["keypoints"]).reshape(-1, 3) / scale).ravel().tolist()


def shares_in_boxes(one: dict[str, Any]) -> None:
    one["bbox"] = (np.array(one["bbox"]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist()


def all_shares(one: dict[str, Any]) -> None:
    shares(one)
    shares_in_boxes(one)


def larger_copy(one: dict[str, Any]) -> None:
    one["keypoints"] = [v if i % 3 == 2 else 4 * v for i, v in enumerate(one["keypoints"])]


def area_0(one: dict[str, Any]) -> None:
    one["area"] = 0


def area_1(one: dict[str, Any]) -> None:
    one["area"] = 1.0


def area_share(one: dict[str, Any]) -> None:
    one["area"] /= WIDTH * HEIGHT


def area_of_a_larger_copy(one: dict[str, Any]) -> None:
    one["area"] *= 16


def at_the_origin(one: dict[str, Any]) -> None:
    one["keypoints"][6:9] = [0, 0, 2]


# What spoils a file, and what its line has to say.
KINDS = [
    (corners, "bbox must be x, y, width, height"),
    (centers, "x, y, width, height"),
    (shares, "all labelled keypoints are within 0..1 in"),
    (shares_in_boxes, "bbox is within 0..1 in"),
    (all_shares, "bbox is within 0..1 in"),
    (larger_copy, "lie outside the image"),
    (area_0, "area is 0 in"),
    (area_1, "area is below"),
    (area_share, "area is below"),
    (area_of_a_larger_copy, "area is above"),
    (at_the_origin, "at exactly 0, 0"),
]
SETS = st.tuples(st.integers(0, 2**32 - 1), st.integers(6, 40))


@pytest.mark.parametrize(("spoil", "expected"), KINDS)
@inputs(20, 500)
def test_an_implausible_file_is_told(
    spoil: Callable[[dict[str, Any]], None], expected: str, examples: int
) -> None:
    def check(one_set: tuple[int, int]) -> None:
        annotations, images = a_set(*one_set)
        for one in annotations:
            spoil(one)
        lines = findings(people(annotations, images))
        assert any(expected in line for line in lines), lines

    fuzz(examples, SETS, check)


@pytest.mark.parametrize("spoil", [area_0, area_1, area_of_a_larger_copy, at_the_origin, shares])
@inputs(20, 500)
def test_a_single_implausible_person_is_counted(
    spoil: Callable[[dict[str, Any]], None], examples: int
) -> None:
    def check(one_set: tuple[int, int]) -> None:
        annotations, images = a_set(*one_set)
        spoil(annotations[one_set[0] % len(annotations)])
        lines = findings(people(annotations, images))
        assert any(f"1 of {len(annotations)} people" in line for line in lines), lines

    fuzz(examples, SETS, check)


@inputs(50, 3000)
def test_a_plausible_file_is_not_told(examples: int) -> None:
    def check(one_set: tuple[int, int]) -> None:
        assert findings(people(*a_set(*one_set))) == []

    fuzz(examples, SETS, check)
