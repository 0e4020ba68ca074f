"""Rendered feet, hands and faces: on the person, in COCO-WholeBody's form, and nothing without."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pose.coco.annotations import read_annotations
from pose.coco.files import coco_files
from pose.common.params import Synthetic
from pose.common.skeleton import names_of_parts, parts_of, whole_body
from pose.common.whole_body import ALL_PARTS, PARTS
from pose.synthetic import body, dataset, details
from sections import DEFAULT

IMAGE_WH = (480, 360)
NAMES = names_of_parts(ALL_PARTS)
KEYS = {f"{part}_{kind}" for part in PARTS for kind in ("kpts", "valid")}


def render(seed: int, parts: Any = ALL_PARTS) -> tuple[np.ndarray, list[dict[str, Any]]]:
    return dataset.render_image(IMAGE_WH, np.random.default_rng([7, seed]), parts)


@pytest.fixture(scope="module")
def people() -> list[dict[str, Any]]:
    return [one for seed in range(24) for one in render(seed)[1]]


def points(person: dict[str, Any], part: str) -> np.ndarray:
    return np.reshape(person[f"{part}_kpts"], (-1, 3))


def test_without_parts_nothing_changes_and_with_them_the_people_stay() -> None:
    """Poses and clothes are the same; the pixels of toes and fingers are not."""
    for seed in range(3):
        plain, annotations = dataset.render_image(IMAGE_WH, np.random.default_rng([7, seed]))
        image, others = render(seed)
        assert not np.array_equal(image, plain)
        assert (np.abs(image.astype(int) - plain).max(axis=2) > 8).mean() < 0.03
        assert len(others) == len(annotations)
        for one, other in zip(annotations, others, strict=True):
            assert not KEYS & one.keys()
            ours, theirs = (np.reshape(a["keypoints"], (-1, 3)) for a in (one, other))
            both = (ours[:, 2] > 0) & (theirs[:, 2] > 0)
            assert np.array_equal(ours[both, :2], theirs[both, :2])


def test_every_annotation_has_the_asked_parts(people: list[dict[str, Any]]) -> None:
    for person in people:
        assert person.keys() > KEYS
        for part, entry in PARTS.items():
            found, valid = points(person, part), person[f"{part}_valid"]
            assert found.shape == (len(entry.names), 3)
            assert valid == bool(found[:, 2].any())
            assert valid <= (person["num_keypoints"] > 0)
            assert not found[found[:, 2] == 0].any()
    feet = render(0, ("body", "foot"))[1][0]
    assert KEYS & feet.keys() == {"foot_kpts", "foot_valid"}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_often_valid(people: list, part: str) -> None:
    labelled = [one for one in people if one["num_keypoints"]]
    share = np.mean([one[f"{part}_valid"] for one in labelled])
    assert share > 0.5
    assert share < 1 or part != "face", "some faces are turned away"


def test_parts_are_where_the_body_says(people: list[dict[str, Any]]) -> None:
    """Hands begin at the wrist, toes are near the ankle, eyes in the face at COCO's eyes."""
    checked = 0
    for person in people:
        body_points, height = np.reshape(person["keypoints"], (-1, 3)), person["bbox"][3]
        for part, first, keypoint in (("lefthand", 0, 9), ("righthand", 0, 10), ("foot", 0, 15)):
            place = points(person, part)[first]
            if place[2] and body_points[keypoint, 2]:
                distance = np.linalg.norm(place[:2] - body_points[keypoint, :2])
                assert distance < (0.02 if part.endswith("hand") else 0.35) * height
                checked += 1
        face = points(person, "face")
        if body_points[1, 2] == 2 and face[42:48, 2].all():
            center = face[42:48, :2].mean(axis=0)
            assert np.linalg.norm(center - body_points[1, :2]) < 0.03 * height
            checked += 1
    assert checked > 40


def test_hands_have_confidences(people: list[dict[str, Any]]) -> None:
    values = np.concatenate([points(one, "lefthand")[:, 2] for one in people])
    assert {*values} > {0.0}
    assert ((values == 0) | ((values >= 0.3) & (values <= 1))).all()
    assert len({*values}) > 50


def test_left_and_right_are_the_persons() -> None:
    """Of a face to the camera the left side is at the right of the image, as of eyes and ears."""
    face = details.face_points()
    left, right = np.array([(16, 0), (45, 36), (54, 48), (26, 17), (35, 31)]).T
    assert (face[left, 0] > 0.01).all()
    assert np.allclose(face[left] * [-1, 1, 1], face[right], atol=1e-9)
    pairs = [pair for pair in whole_body(ALL_PARTS).flip_pairs if 23 <= pair[0] < 91]
    left, right = (np.array(pairs) - 23).T
    assert np.allclose(face[left] * [-1, 1, 1], face[right], atol=1e-9)


def test_fingers_have_the_length_of_a_hand() -> None:
    figure = body.sample_figure(np.random.default_rng(3), 0.0)
    joints = details.detail_joints(figure, np.random.default_rng(4))
    assert {*joints} == {*NAMES[17:]}
    for side in ("left", "right"):
        tip = np.linalg.norm(joints[f"{side}_middle_finger4"] - joints[f"{side}_hand_root"])
        assert 0.07 < tip < 0.12
        big, small = (joints[f"{side}_{toe}"] for toe in ("big_toe", "small_toe"))
        assert 0.03 < np.linalg.norm(big - small) < 0.06


def test_the_set_is_read_as_coco_wholebody(tmp_path: Path) -> None:
    settings = Synthetic(
        seed=3, train_images=2, val_images=4, unlabelled_fraction=1.0, image_size=IMAGE_WH,
        jpeg_quality=90,
    )  # fmt: skip
    for name, workers in (("a", 1), ("b", 2)):
        dataset.write_coco_zips(tmp_path / name, settings, workers, parts=ALL_PARTS)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    val = read_annotations(coco_files(tmp_path / "a", "val2017"), DEFAULT.data, NAMES)
    train = read_annotations(coco_files(tmp_path / "a", "train2017"), DEFAULT.data, NAMES)
    assert not val.bad + train.bad
    assert not val.warnings + train.warnings
    assert sum(person.num_keypoints for person in train.persons) == 0
    labelled = np.stack([person.keypoints[:, 2] > 0 for person in val.persons])
    for where in parts_of(NAMES).values():
        assert labelled[:, where].any()
    with zipfile.ZipFile(tmp_path / "a" / "annotations_trainval2017.zip") as archive:
        document = json.loads(archive.read("annotations/person_keypoints_val2017.json"))
    assert len(document["categories"][0]["keypoints"]) == 17, "as COCO-WholeBody's files"
