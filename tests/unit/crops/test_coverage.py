"""Shares of labelled keypoints, and the two errors for targets that are all zero."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pose.common.errors import PoseError
from pose.crop_table import CropTable
from pose.crops.coverage import (
    Coverage,
    empty_coverage,
    measure_coverage,
    require_keypoints,
    unlabelled_keypoints,
)

MAP_WH = (24, 32)


def test_counts_of_a_cached_split(crop_table: CropTable) -> None:
    coverage = measure_coverage(crop_table, MAP_WH)
    assert coverage.labelled_persons == 5
    assert coverage.labelled.tolist() == [5] * 8 + [4] * 4 + [3] * 5
    np.testing.assert_array_equal(coverage.shares(coverage.labelled), coverage.labelled / 5)
    assert (coverage.in_crop <= coverage.labelled).all()
    assert coverage.in_crop.sum() > 0.9 * coverage.labelled.sum()


def test_only_targets_on_the_heatmap_are_in_the_crop() -> None:
    """Cells from -0.5 to size - 0.5, of labelled keypoints with a target weight above 0."""
    cells = [(0, 0), (23, 31), (-0.6, 5), (23.6, 5), (5, -0.6), (5, 31.6), (5, 5), (5, 5)]
    target = np.array([[(x, y, 1.0) for x, y in cells]])
    target[0, 6, 2] = 0
    keypoints = np.full((1, 8, 3), 2.0)
    keypoints[0, 7, 2] = 0
    columns = (SimpleNamespace(parts=[a], shape=a.shape) for a in (keypoints, target))
    table = SimpleNamespace(keypoints=next(columns), target=next(columns), labelled=lambda: [0])
    table = type("Table", (SimpleNamespace,), {"__len__": lambda self: 1})(**vars(table))
    assert measure_coverage(table, MAP_WH).in_crop.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_require_keypoints_names_the_reason() -> None:
    good = Coverage(3, np.array([3, 0]), np.array([2, 0]))
    require_keypoints(good, "x.json")
    with pytest.raises(PoseError, match=r"^x.json: no person has a labelled keypoint"):
        require_keypoints(replace(good, labelled=np.zeros(2, int)), "x.json")
    with pytest.raises(PoseError, match=r"^x.json: 3 keypoints are labelled, but none lies in"):
        require_keypoints(replace(good, in_crop=np.zeros(2, int)), "x.json")


def test_shares_of_empty_coverage_are_zero() -> None:
    coverage = empty_coverage(2)
    assert coverage.shares(coverage.labelled).tolist() == [0, 0]


def test_unlabelled_keypoints() -> None:
    assert unlabelled_keypoints(("a", "b", "c"), np.array([1, 0, 0])) == ["b", "c"]
