"""The crop cache as training reads it: columns, rows, and what a process receives."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from pose.crop_table import CropTable


def test_labelled_rows(crop_table: CropTable) -> None:
    assert len(crop_table) == 6
    assert crop_table.labelled().tolist() == [0, 2, 3, 4, 5]


def test_columns_are_indexed_by_row_and_by_rows(crop_table: CropTable) -> None:
    rows = np.array([5, 0, 3])
    selected = crop_table.keypoints[rows]
    assert selected.shape == (3, 17, 3)
    for keypoints, row in zip(selected, rows, strict=True):
        np.testing.assert_array_equal(keypoints, crop_table.keypoints[int(row)])
    assert crop_table.bbox_xywh[rows[:0]].shape == (0, 4)
    assert len({crop_table.keypoints[row].tobytes() for row in range(6)}) == 6


def test_an_empty_folder_is_an_empty_table(tmp_path: Path) -> None:
    table = CropTable(tmp_path)
    assert len(table) == len(table.labelled()) == 0
    assert table.keypoints.shape == (0, 0, 3)


def test_a_table_pickles_as_its_folder(crop_table: CropTable) -> None:
    content = pickle.dumps(crop_table)
    assert len(content) < 500
    copy = pickle.loads(content)
    np.testing.assert_array_equal(copy.crop(3), crop_table.crop(3))
    np.testing.assert_array_equal(copy.target[2], crop_table.target[2])
