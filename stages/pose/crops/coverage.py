"""Keypoints of a split that training can learn from: labelled, and inside their person's crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose.common.errors import PoseError
from pose.crop_table import CropTable


@dataclass(frozen=True)
class Coverage:
    """Counts of a split: people with at least one keypoint, and (K,) of each keypoint.

    in_crop counts the labelled keypoints whose target lies on the heatmap of the unaugmented box.
    """

    labelled_persons: int
    labelled: NDArray[np.int64]
    in_crop: NDArray[np.int64]

    def shares(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Counts (K,) as shares 0..1 of the people with at least one keypoint."""
        return counts / max(self.labelled_persons, 1)


def measure_coverage(
    table: CropTable, heatmap_wh: tuple[int, int], set_index: int | None = None
) -> Coverage:
    """The coverage of a cached split, or of one of its sets, for heatmaps of heatmap_wh cells."""
    labelled, in_crop = (np.zeros(table.keypoints.shape[1], np.int64) for _ in range(2))
    first, persons = 0, 0
    for keypoints, target in zip(table.keypoints.parts, table.target.parts, strict=True):
        if set_index is not None:
            rows = table.set_index[first : first + len(keypoints)] == set_index
            first += len(keypoints)
            keypoints, target = keypoints[rows], target[rows]
        visible, cells = keypoints[..., 2] > 0, target[..., :2]
        on_map = ((cells >= -0.5) & (cells <= np.array(heatmap_wh) - 0.5)).all(axis=2)
        persons += int(visible.any(axis=1).sum())
        labelled += visible.sum(axis=0)
        in_crop += (visible & on_map & (target[..., 2] > 0)).sum(axis=0)
    return Coverage(persons, labelled, in_crop)


def empty_coverage(num_keypoints: int) -> Coverage:
    """The coverage of a split without annotations."""
    return Coverage(0, np.zeros(num_keypoints, np.int64), np.zeros(num_keypoints, np.int64))


def require_keypoints(coverage: Coverage, file: str) -> None:
    """Raises PoseError if all targets of a split are zero: the loss would be 0 from the start."""
    if not coverage.labelled.any():
        raise PoseError(
            f"{file}: no person has a labelled keypoint (visibility 1 or 2), so every target "
            "would be zero; crowds and people outside their image do not count; check 'keypoints', "
            "'iscrowd', 'bbox' and data.category"
        )
    if not coverage.in_crop.any():
        raise PoseError(
            f"{file}: {coverage.labelled.sum():,} keypoints are labelled, but none lies in its "
            "person's crop, so every target would be zero; check that 'keypoints' and 'bbox' "
            "(x, y, w, h) are in pixels of the same image"
        )


def unlabelled_keypoints(names: Sequence[str], counts: NDArray[np.int64]) -> list[str]:
    """Names of the keypoints whose count is 0."""
    return [name for name, count in zip(names, counts, strict=True) if count == 0]
