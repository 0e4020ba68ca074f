"""The first N labelled people keep their keypoints, and no image is on both sides."""

from __future__ import annotations

import pytest

from pose.coco.annotations import Annotations, Person, read_annotations
from pose.coco.files import coco_files
from pose.common.errors import PoseError
from pose.common.params import Data
from pose.crops.splits import training_persons
from sections import DEFAULT, changed
from tiny_coco import SPLIT, TinyCoco

ALL = ("rest", "boxes")


@pytest.fixture
def train(tiny_coco: TinyCoco) -> Annotations:
    """Persons 11 and 12 (no keypoints) of image 1; 13, 14 of 2; 16, 15 of 3, in this order."""
    tiny_coco.raw["images"] = [tiny_coco.raw["images"][i] for i in (0, 2, 1)]
    tiny_coco.raw["annotations"].sort(
        key=lambda entry: -entry["id"] if entry["id"] > 14 else entry["id"]
    )
    tiny_coco.save()
    return read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)


def ids(persons: list[Person]) -> tuple[list[int], list[int]]:
    labelled = [p.ann_id for p in persons if p.num_keypoints]
    return labelled, [p.ann_id for p in persons if not p.num_keypoints]


def split(persons: int | None, fraction: float | None, unlabelled: tuple[str, ...]) -> Data:
    values = {"labelled_persons": persons, "labelled_fraction": fraction}
    return changed(DEFAULT.data, **values, unlabelled=unlabelled)


@pytest.mark.parametrize(
    ("data", "labelled", "unlabelled"),
    [
        (split(None, None, ("boxes",)), [11, 13, 14, 15, 16], [12]),
        (split(None, None, ()), [11, 13, 14, 15, 16], []),
        (split(5, None, ALL), [11, 13, 14, 15, 16], [12]),
        (split(1, None, ALL), [11], [13, 14, 15, 16]),
        (split(2, None, ALL), [11, 16], [13, 14]),  # image 3 stands before image 2 in the file
        (split(2, None, ("boxes",)), [11, 16], []),
        (split(None, 0.6, ALL), [11, 15, 16], [13, 14]),
        (split(None, 0.01, ALL), [11], [13, 14, 15, 16]),
        (split(None, 1.0, ALL), [11, 13, 14, 15, 16], [12]),
    ],
)
def test_labelled_and_unlabelled_ids(train: Annotations, data: Data, labelled, unlabelled) -> None:
    assert ids(training_persons(train, data)) == (labelled, unlabelled)


def test_unlabelled_persons_have_no_keypoints_and_order_is_unchanged(train: Annotations) -> None:
    persons = training_persons(train, split(1, None, ALL))
    image_ids = [p.image_id for p in persons]
    assert image_ids == sorted(image_ids)
    assert all(not p.keypoints.any() for p in persons if p.num_keypoints == 0)
    assert persons[0].keypoints.any()


def test_too_few_labelled_persons(train: Annotations) -> None:
    with pytest.raises(PoseError, match=r"data.labelled_persons = 6, but .* has only 5 people"):
        training_persons(train, split(6, None, ALL))
