"""Truth beside prediction: two panels of the same view, told apart by what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from pose.common.skeleton import COCO_17
from pose.crop_table import CropTable
from pose.report import pictures
from pose.report.pictures import LABEL_WIDTH, Person, _truth_beside

STRIPS = 44  # pixels: two lines of text


def panels(person: Person, table: CropTable) -> tuple[np.ndarray, np.ndarray]:
    picture = _truth_beside(person, table, COCO_17)[STRIPS:]
    half = picture.shape[1] // 2
    return picture[:, :half], picture[:, half:]


@pytest.mark.parametrize("row", [0, 2, 3])
def test_truth_is_left_and_the_prediction_right(crop_table: CropTable, row: int) -> None:
    truth = crop_table.keypoints[row][:, :2].astype(float)
    left, right = panels(Person(row, truth, 1.0), crop_table)
    np.testing.assert_array_equal(left, right)
    unchanged, moved = panels(Person(row, truth + 9, 0.3), crop_table)
    np.testing.assert_array_equal(unchanged, left)
    assert (moved != right).any()


def test_a_person_without_a_box_has_its_truth_drawn(crop_table: CropTable) -> None:
    left, right = panels(Person(0, None, 0.0), crop_table)
    assert left.shape == right.shape
    assert (left != right).any()


def test_panels_fit_their_text_and_a_cell(crop_table: CropTable) -> None:
    for row in range(len(crop_table)):
        left, _ = panels(Person(row, None, 0.0), crop_table)
        assert left.shape[0] <= pictures.CELL
        assert LABEL_WIDTH <= left.shape[1] <= pictures.CELL + 4


def test_examples_is_the_number_of_people_per_picture(crop_table: CropTable) -> None:
    people = [Person(int(row), None, 0.0) for row in crop_table.labelled()]
    for count in (1, 3):
        alts = [p.alt for p in pictures.overlays(people, crop_table, COCO_17, count)]
        assert all(f"{count} poses" in alt for alt in alts)
